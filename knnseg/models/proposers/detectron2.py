"""Checkpoints of Mask2Former in detectron2's layout, such as EntitySeg's, loaded into Mask2Former of transformers.

The layout is that of the original implementation (Cheng et al., CVPR 2022, arXiv 2112.01527) on its Swin backbone; the
target is the one in which transformers' checkpoints are published on the hub. Every key is used or named as ignored.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from knnseg.errors import WeightsError
from knnseg.models._torch import read_state, renamed, renaming
from knnseg.models.proposers.hub import build, library, settings

__all__ = ["architecture", "load", "read", "to_hub"]

_BACKBONE = "model.pixel_level_module.encoder."
_PIXELS = "model.pixel_level_module.decoder."
_QUERIES = "model.transformer_module."
_HEAD, _PREDICTOR = "sem_seg_head.pixel_decoder.", "sem_seg_head.predictor."
_AMONG = f"{_PREDICTOR}transformer_self_attention_layers.#."
_BLOCK, _HUB_BLOCK = "backbone.layers.#.blocks.#.", f"{_BACKBONE}encoder.layers.#.blocks.#."
_RULES = (
    ("backbone.patch_embed.proj.", f"{_BACKBONE}embeddings.patch_embeddings.projection."),
    ("backbone.patch_embed.norm.", f"{_BACKBONE}embeddings.norm."),
    (f"{_BLOCK}norm1.", f"{_HUB_BLOCK}layernorm_before."),
    (f"{_BLOCK}norm2.", f"{_HUB_BLOCK}layernorm_after."),
    (f"{_BLOCK}attn.relative_position_bias_table", f"{_HUB_BLOCK}attention.self.relative_position_bias_table"),
    (f"{_BLOCK}attn.query.", f"{_HUB_BLOCK}attention.self.query."),
    (f"{_BLOCK}attn.key.", f"{_HUB_BLOCK}attention.self.key."),
    (f"{_BLOCK}attn.value.", f"{_HUB_BLOCK}attention.self.value."),
    (f"{_BLOCK}attn.proj.", f"{_HUB_BLOCK}attention.output.dense."),
    (f"{_BLOCK}mlp.fc1.", f"{_HUB_BLOCK}intermediate.dense."),
    (f"{_BLOCK}mlp.fc2.", f"{_HUB_BLOCK}output.dense."),
    ("backbone.layers.#.downsample.", f"{_BACKBONE}encoder.layers.#.downsample."),
    *((f"backbone.norm{i}.", f"{_BACKBONE}hidden_states_norms.stage{i + 1}.") for i in range(4)),
    (f"{_HEAD}input_proj.", f"{_PIXELS}input_projections."),
    (f"{_HEAD}transformer.level_embed", f"{_PIXELS}level_embed"),
    (f"{_HEAD}transformer.encoder.layers.#.self_attn.", f"{_PIXELS}encoder.layers.#.self_attn."),
    (f"{_HEAD}transformer.encoder.layers.#.norm1.", f"{_PIXELS}encoder.layers.#.self_attn_layer_norm."),
    (f"{_HEAD}transformer.encoder.layers.#.norm2.", f"{_PIXELS}encoder.layers.#.final_layer_norm."),
    (f"{_HEAD}transformer.encoder.layers.#.linear1.", f"{_PIXELS}encoder.layers.#.fc1."),
    (f"{_HEAD}transformer.encoder.layers.#.linear2.", f"{_PIXELS}encoder.layers.#.fc2."),
    (f"{_HEAD}adapter_1.norm.", f"{_PIXELS}adapter_1.1."),
    (f"{_HEAD}adapter_1.", f"{_PIXELS}adapter_1.0."),
    (f"{_HEAD}layer_1.norm.", f"{_PIXELS}layer_1.1."),
    (f"{_HEAD}layer_1.", f"{_PIXELS}layer_1.0."),
    (f"{_HEAD}mask_features.", f"{_PIXELS}mask_projection."),
    (f"{_AMONG}self_attn.query.", f"{_QUERIES}decoder.layers.#.self_attn.q_proj."),
    (f"{_AMONG}self_attn.key.", f"{_QUERIES}decoder.layers.#.self_attn.k_proj."),
    (f"{_AMONG}self_attn.value.", f"{_QUERIES}decoder.layers.#.self_attn.v_proj."),
    (f"{_AMONG}self_attn.", f"{_QUERIES}decoder.layers.#.self_attn."),
    (f"{_AMONG}norm.", f"{_QUERIES}decoder.layers.#.self_attn_layer_norm."),
    (f"{_PREDICTOR}transformer_cross_attention_layers.#.multihead_attn.", f"{_QUERIES}decoder.layers.#.cross_attn."),
    (f"{_PREDICTOR}transformer_cross_attention_layers.#.norm.", f"{_QUERIES}decoder.layers.#.cross_attn_layer_norm."),
    (f"{_PREDICTOR}transformer_ffn_layers.#.linear1.", f"{_QUERIES}decoder.layers.#.fc1."),
    (f"{_PREDICTOR}transformer_ffn_layers.#.linear2.", f"{_QUERIES}decoder.layers.#.fc2."),
    (f"{_PREDICTOR}transformer_ffn_layers.#.norm.", f"{_QUERIES}decoder.layers.#.final_layer_norm."),
    (f"{_PREDICTOR}decoder_norm.", f"{_QUERIES}decoder.layernorm."),
    (f"{_PREDICTOR}mask_embed.layers.#.", f"{_QUERIES}decoder.mask_predictor.mask_embedder.#.0."),
    (f"{_PREDICTOR}query_embed.", f"{_QUERIES}queries_embedder."),
    (f"{_PREDICTOR}query_feat.", f"{_QUERIES}queries_features."),
    (f"{_PREDICTOR}static_query.", f"{_QUERIES}queries_features."),  # the name before version 2
    (f"{_PREDICTOR}level_embed.", f"{_QUERIES}level_embed."),
    (f"{_PREDICTOR}class_embed.", "class_predictor."),
)  # fmt: skip
"""Beginnings of keys, detectron2's and the hub's; # is a number. The first that fits counts."""
_STACKED = (
    re.compile(r"(.*\.attn)\.qkv\.(weight|bias)"),
    re.compile(r"(.*_self_attention_layers\.\d+\.self_attn)\.in_proj_(weight|bias)"),
)
"""Query, key and value in one tensor, in this order; they are parted before the rules apply."""
_IGNORED = re.compile(r"criterion\.|backbone\.layers\.\d+\.blocks\.\d+\.attn\.relative_position_index$")
"""Keys that inference does not need: the training loss, and an index that follows from the window's size."""
_POINTS, _LEVELS = 4, 3
_LAYOUT = "in detectron2's layout"
"""Sampling points and feature levels of the pixel decoder's attention, fixed in the original."""
_COMPILED = renaming(_RULES)


def to_hub(key: str) -> str | None:
    """A key of detectron2's layout in the hub's; None for one that no rule fits."""
    return renamed(key, _COMPILED)


def read(path: str) -> dict[str, Tensor]:
    """Tensors by detectron2's keys, without those that inference does not need.

    Raises:
        WeightsError: no such file, one that is not to be trusted, or one that holds something else.
    """
    where = (
        "pass the path of a checkpoint as torch.save or safetensors writes it. A file that torch refuses as unsafe may "
        "run code when it is read: if you trust its origin, read it once where that does no harm and keep its tensors, "
        "safetensors.torch.save_file({key: torch.as_tensor(value) for key, value in content['model'].items()}, file)"
    )
    state = read_state(path, "Mask2Former", where)
    return {key: value for key, value in state.items() if not _IGNORED.match(key)}


def _convert(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    parted: dict[str, Tensor] = {}
    for key, value in state.items():
        found = next(filter(None, (pattern.fullmatch(key) for pattern in _STACKED)), None)
        parts = zip(("query", "key", "value"), value.chunk(3), strict=True) if found else ()
        own = {f"{found[1]}.{name}.{found[2]}": part for name, part in parts} if found else {key: value}
        _check_once(own, parted, key, source)
        parted |= own
    unknown = [key for key in parted if to_hub(key) is None]
    if unknown:
        hint = (
            "This is CropFormer, which decodes several views of an image together; take a Mask2Former checkpoint of "
            "EntitySeg instead." if any(".make_3d." in key for key in unknown) else ""
        )  # fmt: skip
        got = f"the keys {', '.join(unknown[:5])}" + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        raise WeightsError(source, expected=f"a Mask2Former with a Swin backbone {_LAYOUT}", got=got, hint=hint)
    converted: dict[str, Tensor] = {}
    for key, value in parted.items():
        _check_once([target := str(to_hub(key))], converted, key, source)
        converted[target] = value.float().contiguous()
    return converted


def _check_once(targets: Iterable[str], taken: Container[str], key: str, source: str) -> None:
    """Of two keys for one weight, an old name and a new one say, either could be meant."""
    if any(target in taken for target in targets):
        raise WeightsError(source, expected="each weight once", got=f"{key} for one that another key has given")


def architecture(state: Mapping[str, Tensor]) -> Any:
    """The configuration for transformers of weights in detectron2's layout; the shapes tell all of it.

    Raises:
        KeyError: a weight that sizes are read from is not there.
    """

    def count(pattern: str) -> int:
        return len({found[1] for key in state if (found := re.match(pattern, key))})

    def rows(key: str) -> int:
        return int(state[key].shape[0])

    stages = range(count(r"backbone\.layers\.(\d+)\."))
    tables = [state[f"backbone.layers.{i}.blocks.0.attn.relative_position_bias_table"] for i in stages]
    names = library()
    backbone = names.SwinConfig(
        patch_size=int(state["backbone.patch_embed.proj.weight"].shape[-1]),
        embed_dim=rows("backbone.patch_embed.proj.weight"),
        depths=[count(rf"backbone\.layers\.{i}\.blocks\.(\d+)\.") for i in stages],
        num_heads=[int(table.shape[1]) for table in tables],
        window_size=(int(tables[0].shape[0] ** 0.5) + 1) // 2,
        mlp_ratio=rows("backbone.layers.0.blocks.0.mlp.fc1.bias") / rows("backbone.patch_embed.proj.weight"),
        out_features=[f"stage{i + 1}" for i in stages],
    )
    layer = f"{_HEAD}transformer.encoder.layers.0."
    return names.Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=int(state[f"{_HEAD}mask_features.weight"].shape[1]),
        mask_feature_size=rows(f"{_HEAD}mask_features.weight"),
        hidden_dim=rows(f"{_PREDICTOR}decoder_norm.weight"),
        encoder_feedforward_dim=rows(f"{layer}linear1.weight"),
        encoder_layers=count(rf"{re.escape(_HEAD)}transformer\.encoder\.layers\.(\d+)\."),
        num_attention_heads=rows(f"{layer}self_attn.attention_weights.weight") // (_LEVELS * _POINTS),
        dim_feedforward=rows(f"{_PREDICTOR}transformer_ffn_layers.0.linear1.weight"),
        # transformers counts the prediction before the first layer as one more
        decoder_layers=count(rf"{re.escape(_PREDICTOR)}transformer_ffn_layers\.(\d+)\.") + 1,
        num_queries=rows(f"{_PREDICTOR}query_embed.weight"),
        num_labels=rows(f"{_PREDICTOR}class_embed.weight") - 1,
    )


def load(path: str, model: str = "") -> tuple[Any, Any]:
    """A network in evaluation mode with the weights of a checkpoint in detectron2's layout, and an image processor.

    Args:
        path: the checkpoint.
        model: a folder or an id of the hub that gives sizes and preprocessing; empty to read the sizes off the weights
            and preprocess as published: shortest edge 800, longest at most 1333, padded to multiples of 32.

    Raises:
        ConfigError: transformers is not installed, or ``model`` is of another type.
        WeightsError: no such file, or one of another layout or other sizes.
    """
    state = read(path)
    converted = _convert(state, path)
    if model:
        config, processor = settings("mask2former", model)
    else:
        try:
            config = architecture(state)
        except KeyError as error:
            raise WeightsError(f"{path}: {error} is missing", expected=f"a Mask2Former {_LAYOUT}") from error
        processor = library().Mask2FormerImageProcessor(size_divisor=0)  # we pad, as the original does
    return build("Mask2FormerForUniversalSegmentation", config, converted, Path(path).name), processor
