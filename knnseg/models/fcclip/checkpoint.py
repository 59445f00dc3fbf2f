"""Checkpoints in the published layout: every key is used or named as ignored, every parameter is found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike

from torch import Tensor, nn

from knnseg.errors import WeightsError
from knnseg.models._torch import read_state, renamed, renaming

__all__ = ["LoadReport", "load_state", "published_state", "read_checkpoint", "to_ours", "to_published"]

_DECODER = "sem_seg_head.predictor."
_PIXELS = "sem_seg_head.pixel_decoder."
_RULES = (
    ("backbone.clip_model.", "backbone.clip."),
    (f"{_PIXELS}transformer.level_embed", "pixel_decoder.level_embed"),
    (f"{_PIXELS}transformer.encoder.layers.", "pixel_decoder.layers."),
    (f"{_PIXELS}adapter_1.norm.", "pixel_decoder.lateral.1."),
    (f"{_PIXELS}adapter_1.", "pixel_decoder.lateral.0."),
    (f"{_PIXELS}layer_1.norm.", "pixel_decoder.smooth.1."),
    (f"{_PIXELS}layer_1.", "pixel_decoder.smooth.0."),
    (_PIXELS, "pixel_decoder."),
    (f"{_DECODER}transformer_cross_attention_layers.#.multihead_attn.", "decoder.layers.#.cross."),
    (f"{_DECODER}transformer_cross_attention_layers.#.norm.", "decoder.layers.#.cross.norm."),
    (f"{_DECODER}transformer_self_attention_layers.#.self_attn.", "decoder.layers.#.among."),
    (f"{_DECODER}transformer_self_attention_layers.#.norm.", "decoder.layers.#.among.norm."),
    (f"{_DECODER}transformer_ffn_layers.#.", "decoder.layers.#.feed_forward."),
    (f"{_DECODER}_mask_pooling_proj.", "decoder.pool_proj."),
    (_DECODER, "decoder."),
    ("void_embedding.weight", "void"),
)
"""Beginnings of keys, published and ours; # is a number. The first that fits counts, from either side."""
IGNORED = ("criterion.",)
"""Beginnings of published keys that only training uses."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What became of a checkpoint.

    Args:
        used: how many of its keys were loaded.
        ignored: the keys that inference does not need.
    """

    used: int
    ignored: tuple[str, ...]


_TO_OURS = renaming(_RULES)
# The longest beginning first: read from our side, a general rule may stand before a special one.
_TO_PUBLISHED = renaming(sorted(((ours, published) for published, ours in _RULES), key=lambda rule: -len(rule[0])))


def to_ours(key: str) -> str | None:
    """A published key as :class:`~knnseg.models.fcclip.FCCLIP` has it; None for one that no rule fits."""
    return renamed(key, _TO_OURS)


def to_published(key: str) -> str | None:
    """The inverse of :func:`to_ours`."""
    return renamed(key, _TO_PUBLISHED)


def published_state(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a model in the published layout."""
    state = {to_published(key): value.contiguous() for key, value in model.state_dict().items()}
    return {key: value for key, value in state.items() if key is not None}


def read_checkpoint(path: str | PathLike[str]) -> dict[str, Tensor]:
    """Tensors by key, from safetensors or from a file that torch reads with ``weights_only=True``.

    Raises:
        WeightsError: no such file, or one that holds something else.
    """
    return read_state(str(path), "FC-CLIP", "pass the path of a published checkpoint")


def load_state(model: nn.Module, state: Mapping[str, Tensor]) -> LoadReport:
    """Load weights in the published layout, strictly.

    Args:
        model: an :class:`~knnseg.models.fcclip.FCCLIP` of the size of the weights.
        state: tensors by published key.

    Raises:
        WeightsError: a key missing, a key that nothing uses, or a tensor of another shape; nothing is loaded then.
    """
    ignored = tuple(key for key in state if key.startswith(IGNORED))
    expected = model.state_dict()
    # Only the published name of a weight: another that leads to the same weight would overwrite it.
    ours = {key: ours for key in state if (ours := to_ours(key)) in expected and to_published(str(ours)) == key}
    own = {ours[key]: value for key, value in state.items() if key in ours}
    problems = [f"missing {to_published(key)}" for key in expected if key not in own]
    problems += [f"unknown {key}" for key in state if key not in ours and key not in ignored]
    problems += [
        f"{to_published(key)} of shape {tuple(own[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in own and own[key].shape != value.shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise WeightsError(
            "FC-CLIP checkpoint",
            expected="the published layout at the configured sizes",
            got=f"{'; '.join(problems[:5])}{more}",
        )
    model.load_state_dict(own)
    return LoadReport(len(own), ignored)
