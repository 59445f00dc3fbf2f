"""The hook that a backend plugin implements."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pluggy

from knnstore.abc import Backend

__all__ = ["Register", "hookimpl", "hookspec"]

hookspec = pluggy.HookspecMarker("knnstore")
hookimpl = pluggy.HookimplMarker("knnstore")
"""Marks a function of a plugin as the implementation of a hook below."""

Register: TypeAlias = Callable[[Backend], None]


@hookspec
def knnstore_register(register: Register) -> None:
    """Call ``register(backend)`` for each backend that the plugin brings. Import its client later, in ``open``."""
