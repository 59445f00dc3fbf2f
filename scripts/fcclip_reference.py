"""Numbers of the original FC-CLIP for the tests: ``tests/knnseg/models/fcclip/reference.npz``.

    python scripts/fcclip_reference.py --fc-clip CLONE --detectron2 CLONE --stages CASE1.npz

The clones are run beside ours, never copied; see ``fcclip_original.py`` for what they need. Weights of the cases
that are run here come from a generator whose stream never changes, so that only results are kept. ``--stages`` is a
file with one more case, recorded stage by stage, from fixed random feature maps and a random text matrix; of it,
the weights (exact in bfloat16) and the numbers that the tests compare are kept.
"""

import argparse
import json
from pathlib import Path

import numpy as np

TARGET = Path(__file__).parents[1] / "tests/knnseg/models/fcclip"

CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear", "image_size": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
}
CHANNELS = [24, 24, 32, 48, 64]
SIZES = {
    "width": 64, "encoder_layers": 2, "decoder_layers": 4, "decoder_hidden": 48, "queries": 20, "instances": 30,
    "overlap_threshold": 0.2,
}  # fmt: skip
"""By the names of FcClipConfig."""
CLASSES = {
    "train": ["person,child", "car", "tree,bush", "sky", "road, street"],
    "test": ["person,man,woman", "automobile, car", "bear", "sky", "grass,lawn", "wall", "river, stream"],
    "things": [0, 1, 2],
}
IMAGES = [(70, 90), (50, 120)]
"""Sizes that are no multiples of 32; the batch is padded to 96×128."""
ORIGINALS = [(61, 85), (100, 240)]
STRIDE = 3
"""Of the semantic maps every so many pixels are kept in both directions."""


def images():
    """uint8 (3, H, W), smooth, so that features differ from place to place."""
    stream = np.random.RandomState(7)
    found = []
    for height, width in IMAGES:
        coarse = stream.uniform(0, 255, (3, 5, 6))
        rows, columns = np.arange(height) * 5 // height, np.arange(width) * 6 // width
        noisy = coarse[:, rows][:, :, columns] + stream.normal(0, 20, (3, height, width))
        found.append(np.clip(noisy, 0, 255).astype(np.uint8))
    return found


def random_state(shapes, seed):
    """float32 arrays by published key, for weights that make a network do something.

    Args:
        shapes: shape by published key.
        seed: of the stream.
    """
    stream, state = np.random.RandomState(seed), {}
    for key in sorted(shapes):
        shape = tuple(shapes[key])
        noise = stream.standard_normal(shape)
        state[key] = np.asarray(_scaled(key, shape, noise), np.float32)
    return state


def _scaled(key, shape, noise):
    if key.endswith("logit_scale"):
        return 3.5 + 0.1 * noise
    if key.endswith("gamma"):
        return 0.3 + 0.1 * noise
    if len(shape) < 2:
        norm = key.endswith("weight")
        spread = 1.5 if "sampling_offsets" in key else 0.1
        return norm + spread * noise
    if ("embed" in key and ".layers." not in key) or "query_feat" in key:
        return noise * (0.1 if "positional" in key else 2)
    # Small residual branches of the decoder leave its queries different from one another, and so the masks.
    gain = {"predictor.trans": 0.4, "mask_embed": 1.5, "class_embed": 2.0, "sampling_offsets": 0.5, "stem": 2.0}
    return noise * next((g for part, g in gain.items() if part in key), 1.2) / np.sqrt(np.prod(shape[1:]))


def original_settings(**more):
    """Keys and values of the original's configuration for :data:`SIZES`."""
    head, former = "MODEL.SEM_SEG_HEAD.", "MODEL.MASK_FORMER."
    settings = {
        f"{head}CONVS_DIM": SIZES["width"], f"{head}MASK_DIM": SIZES["width"], f"{former}HIDDEN_DIM": SIZES["width"],
        f"{head}TRANSFORMER_ENC_LAYERS": SIZES["encoder_layers"], f"{former}DEC_LAYERS": SIZES["decoder_layers"] + 1,
        f"{former}DIM_FEEDFORWARD": SIZES["decoder_hidden"], f"{former}NUM_OBJECT_QUERIES": SIZES["queries"],
        f"{head}NUM_CLASSES": len(CLASSES["train"]), "TEST.DETECTIONS_PER_IMAGE": SIZES["instances"],
        f"{former}TEST.OVERLAP_THRESHOLD": SIZES["overlap_threshold"],
    }  # fmt: skip
    return [part for pair in (settings | more).items() for part in pair]


def run_original(arguments):
    """Results of the original, by name."""
    import torch
    from fcclip_original import build_original, import_original

    import_original(arguments.fc_clip, arguments.detectron2)
    modes = {
        "all": {},
        "valid": {"MODEL.FC_CLIP.ENSEMBLE_ON_VALID_MASK": True},
        "map": {"MODEL.MASK_FORMER.TEST.PANOPTIC_ON": False, "MODEL.MASK_FORMER.TEST.INSTANCE_ON": False},
    }
    found = {}
    for mode, settings in modes.items():
        more = original_settings(**settings)
        model = build_original(arguments.fc_clip, "convnext_reference", CLIP, CHANNELS, more, CLASSES)
        shapes = {key: value.shape for key, value in model.state_dict().items() if not key.startswith("criterion")}
        state = {key: torch.from_numpy(value) for key, value in random_state(shapes, arguments.seed).items()}
        assert not model.load_state_dict(state, strict=False).unexpected_keys
        found |= {f"{mode}/{key}": value for key, value in _record(model).items()}
    keep = ("all/", "valid/logits", "map/semantic")
    return {key: value for key, value in found.items() if key.startswith(keep)} | {
        "shapes": json.dumps({key: list(shape) for key, shape in shapes.items()})
    }


def _record(model):
    """One batch through the original, with what it computes on the way."""
    import torch

    seen = {}
    watch = {
        model.backbone: lambda out: {f"feature/{key}": value for key, value in out.items()},
        model.sem_seg_head: lambda out: {"masks": out["pred_masks"], "in_vocab": out["pred_logits"]},
        model.sem_seg_head.pixel_decoder.mask_features: lambda out: {"mask_features": out[:, ::4]},
    }
    for part, of in watch.items():
        part.register_forward_hook(lambda _module, _inputs, out, of=of: seen.update(of(out)))
    inner, logits = model.semantic_inference, []
    model.semantic_inference = lambda classes, masks: (logits.append(classes), inner(classes, masks))[1]
    batch = [
        {"image": torch.from_numpy(image), "height": height, "width": width}
        for image, (height, width) in zip(images(), ORIGINALS, strict=True)
    ]
    with torch.no_grad():
        results = model(batch)
        seen["text"] = model.get_text_classifier()[0]
    seen["logits"] = torch.stack(logits)
    for i, result in enumerate(results):
        seen[f"semantic{i}"] = result["sem_seg"][:, ::STRIDE, ::STRIDE]
        if "panoptic_seg" in result:
            ids, segments = result["panoptic_seg"]
            seen[f"panoptic{i}"] = ids.to(torch.uint8)
            seen[f"segments{i}"] = torch.tensor([[s["id"], s["isthing"], s["category_id"]] for s in segments]).view(
                -1, 3
            )
            found = result["instances"]
            seen[f"instances{i}"] = torch.stack(
                [found.pred_classes.float(), found.scores, found.pred_masks.sum((1, 2))], 1
            )
    dropped = ("feature/stem", "feature/res2", "feature/res3", "feature/clip_vis_dense")
    return {key: value.detach().numpy() for key, value in seen.items() if key not in dropped}


def carried_over(path):
    """What the tests need of the case that was recorded stage by stage."""
    case = np.load(path)
    wanted = [
        f"out/pd/{name}"
        for name in ("mask_features", *(f"{part}{i}" for part in ("pos", "multi_scale") for i in range(3)))
    ]
    wanted += [f"out/dec/l{i}_{part}" for i in range(3) for part in ("attn_mask", "cross", "self", "ffn")]
    wanted += ["out/dec/pred_masks", "out/dec/pred_logits", "out/img/padded_normalised"]
    wanted += [key for key in case if key.startswith(("in/", "out/cls/", "out/post0/"))]
    found = {key: case[key] for key in wanted}
    for key in ("out/post0/mask_pred", "out/post0/inst/bitmask_boxes_extra", "out/post0/inst/pred_boxes"):
        del found[key]  # the first follows from pred_masks, exactly; the boxes are no result of the original
    found["out/post0/sem_seg"] = found["out/post0/sem_seg"][:, ::STRIDE, ::STRIDE]
    weights = {key: case[key] for key in case if key.startswith("sd/") and not key.startswith("sd/criterion")}
    for key, value in weights.items():
        bits = value.reshape(-1).view(np.uint32)
        assert not (bits & 0xFFFF).any(), f"{key} is not exact in bfloat16"
        found[key] = (bits >> 16).astype(np.uint16).reshape(value.shape)
    return found | {key: case[key] for key in ("config", "sd_all_keys")}


def main():
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fc-clip", help="a clone of bytedance/fc-clip")
    parser.add_argument("--detectron2", help="a clone of facebookresearch/detectron2")
    parser.add_argument("--stages", help="the case that was recorded stage by stage")
    parser.add_argument("--seed", type=int, default=19)
    arguments = parser.parse_args()
    TARGET.mkdir(parents=True, exist_ok=True)
    if arguments.stages:
        np.savez_compressed(TARGET / "stages.npz", **carried_over(arguments.stages))
    if arguments.fc_clip:
        np.savez_compressed(TARGET / "reference.npz", **run_original(arguments))
    for path in sorted(TARGET.glob("*.npz")):
        print(f"{path.name}: {path.stat().st_size:,} bytes, {len(np.load(path).files)} arrays")


if __name__ == "__main__":
    main()
