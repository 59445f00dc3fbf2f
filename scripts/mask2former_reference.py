"""Numbers of the original Mask2Former for the tests: ``tests/knnseg/models/proposers/reference.npz``.

    python scripts/mask2former_reference.py --mask2former CLONE

The clone of https://github.com/facebookresearch/Mask2Former is run, never copied: its Swin backbone, its pixel decoder
and its transformer decoder. Of detectron2 they need a convolution that applies a norm, and names; stand-ins are below.
The compiled operator is left out: the original then takes its own path for the CPU. Weights come from a generator
whose stream never changes, so that only the keys, their shapes and the results are kept.
"""

import argparse
import dataclasses
import importlib
import json
import sys
import types
import warnings
from pathlib import Path

import numpy as np

TARGET = Path(__file__).parents[1] / "tests/knnseg/models/proposers/reference.npz"
SWIN = {"embed_dim": 8, "depths": [1, 2, 2, 1], "num_heads": [1, 2, 2, 4], "window_size": 4}
WIDTH, QUERIES, HEADS = 32, 9, 4
SIZE = (96, 160)


def weights(shapes):
    """Float32 arrays by key: norms around 1, all else around 0 with a spread that keeps activations in bounds."""
    rng, made = np.random.Generator(np.random.PCG64(7)), {}
    for key, shape in sorted(shapes.items()):
        values = rng.standard_normal(shape)
        if key.endswith(".weight") and len(shape) == 1:
            values = 1 + 0.2 * values
        elif key.endswith((".bias", "_bias")):
            values = 0.2 * values
        elif "query" not in key and "level_embed" not in key:
            values = 1.5 * values / np.sqrt(np.prod(shape[1:]))
        made[key] = values.astype(np.float32)
    return made


def pixels():
    """float32 (1, 3, H, W), as if normalised."""
    return np.random.Generator(np.random.PCG64(8)).standard_normal((1, 3, *SIZE)).astype(np.float32)


def stand_ins():
    """Modules under the names that the original imports."""
    import timm.layers
    from torch import nn

    class Convolution(nn.Conv2d):
        def __init__(self, *args, norm=None, activation=None, **kwargs):
            super().__init__(*args, **kwargs)
            self.norm, self.activation = norm, activation

        def forward(self, x):
            for step in (super().forward, self.norm, self.activation):
                x = x if step is None else step(x)
            return x

    class Registry(dict):
        def __init__(self, *_):
            super().__init__()

        def register(self):
            return lambda thing: thing

    def module(name, **members):
        made = types.ModuleType(name)
        vars(made).update(members)
        sys.modules[name] = made

    initial = types.SimpleNamespace(c2_xavier_fill=lambda _: None, c2_msra_fill=lambda _: None)
    shape = dataclasses.make_dataclass("ShapeSpec", ["channels", "stride"])
    module("fvcore"), module("fvcore.nn", weight_init=initial), module("detectron2"), module("detectron2.utils")
    module("fvcore.nn.weight_init", **vars(initial))
    module("detectron2.config", configurable=lambda method: method)
    module("detectron2.layers", Conv2d=Convolution, ShapeSpec=shape, get_norm=lambda _, width: nn.GroupNorm(32, width))
    registries = {"BACKBONE_REGISTRY": Registry(), "SEM_SEG_HEADS_REGISTRY": Registry()}
    module("detectron2.modeling", **registries, Backbone=nn.Module, ShapeSpec=shape)
    module("detectron2.utils.registry", Registry=Registry)
    module("timm.models.layers", **vars(timm.layers))
    module("MultiScaleDeformableAttention")
    return shape


def original(clone):
    """The three parts of the original, under the keys that its checkpoints have."""
    from torch import nn

    shape = stand_ins()
    for name in ("mask2former", "mask2former.modeling", "mask2former.modeling.backbone",
                 "mask2former.modeling.pixel_decoder", "mask2former.modeling.transformer_decoder"):  # fmt: skip
        package = types.ModuleType(name)  # without what its __init__ imports
        package.__path__ = [str(Path(clone) / name.replace(".", "/"))]
        sys.modules[name] = package
    body = importlib.import_module("mask2former.modeling.backbone.swin")
    maskformer = importlib.import_module("mask2former.modeling.transformer_decoder.maskformer_transformer_decoder")
    package = sys.modules["mask2former.modeling.transformer_decoder"]
    package.TRANSFORMER_DECODER_REGISTRY = maskformer.TRANSFORMER_DECODER_REGISTRY
    head = importlib.import_module("mask2former.modeling.pixel_decoder.msdeformattn")
    decoder = importlib.import_module("mask2former.modeling.transformer_decoder.mask2former_transformer_decoder")
    channels = [SWIN["embed_dim"] * 2**i for i in range(4)]
    model = nn.Module()
    model.backbone = body.SwinTransformer(**SWIN)
    model.sem_seg_head = nn.Module()
    model.sem_seg_head.pixel_decoder = head.MSDeformAttnPixelDecoder(
        {f"res{i + 2}": shape(width, 4 * 2**i) for i, width in enumerate(channels)},
        transformer_dropout=0.0, transformer_nheads=HEADS, transformer_dim_feedforward=24, transformer_enc_layers=2,
        conv_dim=WIDTH, mask_dim=WIDTH, norm="GN", transformer_in_features=["res3", "res4", "res5"], common_stride=4,
    )  # fmt: skip
    model.sem_seg_head.predictor = decoder.MultiScaleMaskedTransformerDecoder(
        WIDTH, num_classes=1, hidden_dim=WIDTH, num_queries=QUERIES, nheads=HEADS, dim_feedforward=40, dec_layers=4,
        pre_norm=False, mask_dim=WIDTH, enforce_input_project=False,
    )  # fmt: skip
    return model.eval()


def main():
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mask2former", required=True, help="folder with a clone")
    warnings.simplefilter("ignore")
    model = original(parser.parse_args().mask2former)
    state = model.state_dict()
    shapes = {key: list(value.shape) for key, value in state.items() if "relative_position_index" not in key}
    model.load_state_dict({key: torch.from_numpy(value) for key, value in weights(shapes).items()}, strict=False)
    with torch.no_grad():
        features = model.backbone(torch.from_numpy(pixels()))
        masks, _, levels = model.sem_seg_head.pixel_decoder.forward_features(features)
        made = model.sem_seg_head.predictor(levels, masks)
    results = {"masks": made["pred_masks"].numpy(), "classes": made["pred_logits"].numpy()}
    np.savez_compressed(TARGET, shapes=json.dumps(shapes), **results)
    print(TARGET, {key: (value.shape, float(value.std())) for key, value in results.items()})


if __name__ == "__main__":
    main()
