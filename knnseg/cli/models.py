"""``knnseg models``: the presets, the published models that they name, and whether the weights are here."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from knnseg.cli.options import AsJson, print_json

if TYPE_CHECKING:
    from knnseg.models.weights import PublishedWeights

__all__ = ["models_command"]


def models_command(as_json: AsJson = False) -> None:
    """List presets and models: size, licence, source, and whether the weights are on this machine.

    Asks no network, and loads no model.
    """
    from knnseg.config import Config, presets
    from knnseg.models.weights import folder, known, named_by

    by_preset = {name: [weights.name for weights in named_by(Config.preset(name))] for name in presets()}
    models = [_facts(weights, by_preset) for weights in known().values()]
    if as_json:
        print_json({"folder": str(folder()), "presets": by_preset, "models": models})
        return
    for preset, names in by_preset.items():
        print(f"preset {preset}: {_state(names)}")
    print(f"folder for weights: {folder()}\n")
    for model in models:
        _show(model)
    for model in models:
        if model["presets"] and not model["present"]:
            print(f"\nTo have {model['name']} by hand, {known()[model['name']].advice()}.")


def _facts(weights: PublishedWeights, by_preset: dict[str, list[str]]) -> dict[str, Any]:
    here = weights.present()
    shown = ("name", "what", "parameters", "licence", "source", "hub", "files")
    return {
        **{key: value for key, value in asdict(weights).items() if key in shown},
        "presets": [preset for preset, names in by_preset.items() if weights.name in names],
        "put_at": str(weights.put_at or ""),
        "present": here is not None,
        "found_in": here[0] if here else "",
        "path": str(here[1]) if here else "",
    }


def _state(names: list[str]) -> str:
    from knnseg.models.weights import known

    absent = [known()[name] for name in names if not known()[name].present()]
    lists = {
        "missing": [weights.name for weights in absent if not weights.hub],
        "from the hub at first use": [weights.name for weights in absent if weights.hub],
    }
    return "; ".join(f"{what}: {', '.join(found)}" for what, found in lists.items() if found) or "ready"


def _show(model: dict[str, Any]) -> None:
    """Two lines: what a person chooses by, and where it is from."""
    where = model["found_in"] or ("on the hub" if model["hub"] else "missing")
    size = f"{model['parameters'] / 1e6:.0f} M"
    presets = ", ".join(model["presets"])
    print(f"{model['name']:<28}{size:>7}  {model['licence']:<12}{where:<12}{presets}".rstrip())
    print(f"    {model['what']}; {model['source']}")
