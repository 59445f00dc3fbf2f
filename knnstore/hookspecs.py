"""The hook that a backend plugin implements, and how a hook of this kind is called."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeAlias

import pluggy

from knnstore.abc import Backend
from knnstore.errors import BrokenPluginError

__all__ = ["Register", "call_hook", "hookimpl", "hookspec"]

hookspec = pluggy.HookspecMarker("knnstore")
hookimpl = pluggy.HookimplMarker("knnstore")
"""Marks a function of a plugin as the implementation of a hook below."""

Register: TypeAlias = Callable[[Backend], None]


@hookspec
def knnstore_register(register: Register) -> None:
    """Call ``register(backend)`` for each backend that the plugin brings. Import its client later, in ``open``."""


def call_hook(plugin: object, specs: ModuleType, register: Callable[..., Any]) -> None:
    """Have one plugin register what it brings, in a manager of its own, so that its mistakes stay its own.

    Args:
        plugin: a module or object with the hook.
        specs: a module such as this one, with ``hookspec`` and the specification of the one hook,
            ``<project>_register(register)``.
        register: what the hook is given.

    Raises:
        BrokenPluginError: there is no such hook, or another one.
    """
    project = specs.hookspec.project_name
    name, hook = getattr(plugin, "__name__", type(plugin).__name__), f"{project}_register"
    manager = pluggy.PluginManager(project)
    manager.add_hookspecs(specs)
    try:
        manager.register(plugin)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise BrokenPluginError(f"plugin {name}: {error}", hint=f"The hooks are in {specs.__name__}.") from error
    caller = getattr(manager.hook, hook)
    if not caller.get_hookimpls():
        raise BrokenPluginError(
            f"plugin {name}", expected=f"a function {hook}, marked with @{project}.hookimpl", got="none"
        )
    caller(register=register)
