"""The hook through which a package brings stages, ours included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeAlias

import pluggy

__all__ = ["Factory", "Kind", "RegisterStage", "hookimpl", "hookspec"]

hookspec = pluggy.HookspecMarker("knnseg")
hookimpl = pluggy.HookimplMarker("knnseg")
"""Marks a function of a plugin as the implementation of a hook below."""

Kind: TypeAlias = Literal["features", "masks", "base", "annotations", "named_images", "prompted"]
Factory: TypeAlias = "str | Callable[..., Any]"
"""A callable with keyword arguments, or ``"package.module:attribute"``, which is imported when the stage is made."""


class RegisterStage(Protocol):
    """What the hook is given."""

    def __call__(self, kind: Kind, name: str, factory: Factory) -> None:
        """Register one stage."""


@hookspec
def knnseg_register(register: RegisterStage) -> None:
    """Call ``register(kind, name, factory)`` for each stage that the plugin brings."""
