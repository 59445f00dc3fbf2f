"""What calibration has found, kept with the embedding space that it goes with, for everyone who opens it.

It is one more change of the database, see :mod:`knnseg.database.changes`: so it works on every engine and for several
writers, the newest counts, and those before it stay listed. A whitening is an array of up to megabytes, which no text
field takes: it stays a file, whose content the fingerprint of the space covers, and the name of that file stands here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from knnseg.config import Config
from knnseg.database.changes import Changes
from knnseg.database.naming import fitted
from knnseg.database.spaces import place_of_changes, space_name
from knnstore import EmbeddingStore

__all__ = ["Settings", "keep_settings", "settings_of", "with_settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """Numbers for one embedding space.

    Args:
        base: the stage that the numbers were fitted with, ``"none"`` for none; they are used with no other.
        numbers: by section and key, as in a configuration.
        keys: what a configuration says of the keys, where they were chosen too.
        measured: what the numbers were measured to give, such as the mean IoU, its gain and its spread.
        time: when they were kept, as seconds since the epoch.
        version: of those of its space, from 1; 0 before they are kept.
    """

    base: str
    numbers: Mapping[str, Mapping[str, Any]]
    keys: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)
    time: float = 0.0
    version: int = 0


def settings_of(store: EmbeddingStore) -> tuple[Settings, ...]:
    """Every version for the space of a store, oldest first."""
    with closing(Changes(place_of_changes(store), read_only=True)) as changes:
        found = changes.names().fitted.get(_space(store), ())
    return tuple(Settings(**one, version=number) for number, one in enumerate(found, 1))


def keep_settings(store: EmbeddingStore, settings: Settings, *, space: str = "") -> Settings:
    """Keep numbers with a space, by default that of the store; returned with their time and version.

    Args:
        store: of the database.
        settings: the numbers.
        space: the name of another space of the same database, which may come later.
    """
    place = space or _space(store)
    now = replace(settings, time=time.time())
    said = {name: value for name, value in asdict(now).items() if name != "version"}
    with closing(Changes(place_of_changes(store), read_only=store.read_only)) as changes:
        names = changes.make(lambda _: fitted(place, said))
    return replace(now, version=len(names.fitted[place]))


def with_settings(config: Config, store: EmbeddingStore) -> Config:
    """The configuration with the newest numbers of the space where it states none, if its base is theirs."""
    own = [one for one in settings_of(store) if one.base == config.base.name]
    return config.filled(own[-1].numbers) if own else config


def _space(store: EmbeddingStore) -> str:
    return "" if store.spec.space is None else space_name(store.spec.space)
