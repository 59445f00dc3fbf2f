"""FC-CLIP's forward, stage by stage, and panoptic merging, beside what they replace.

    python benchmarks/fcclip.py [--clip base] [--size 640] [--rounds 5] [--precision bfloat16] [--compile]
    python benchmarks/fcclip.py --original FC_CLIP --detectron2 DETECTRON2

Weights are random: what a pass costs does not depend on what was learnt. With clones of bytedance/fc-clip and of
facebookresearch/detectron2 the original runs in turn with ours, on the same weights and image, and every stage is
compared; ``scripts/fcclip_original.py`` says what they need. Its CUDA operator is not compiled, so on CUDA this is not
the original's own speed. On a CPU it is CPU time of one thread, which other work on the machine hardly changes. Ratios
are what counts; prints tables and writes JSON.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import open_clip
import torch

from knnseg.models.fcclip import FCCLIP, FcClipConfig
from knnseg.models.fcclip.checkpoint import published_state
from knnseg.models.fcclip.inference import panoptic
from knnseg.models.fcclip.text import TextClassifier, class_rows

CLASSES = 150
THINGS = list(range(0, CLASSES, 2))


def medians(calls, rounds, device):
    """Median seconds of each call, taken in turn so that a busy machine is busy for all."""
    seconds, clock = {name: [] for name in calls}, time.perf_counter if device == "cuda" else time.process_time
    for _ in range(rounds + 1):
        for name, call in calls.items():
            if device == "cuda":
                torch.cuda.synchronize()
            start = clock()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(clock() - start)
    return {name: statistics.median(taken[1:]) for name, taken in seconds.items()}


def table(title, rows, reference):
    """Milliseconds of each side and how many times ours is as fast."""
    print(f"\n{title}\n")
    print(f"| | ours, ms | {reference}, ms | ratio |\n|---|---:|---:|---:|")
    for name, (ours, theirs) in rows.items():
        other = "" if theirs is None else f"{1000 * theirs:.1f}"
        print(f"| {name} | {1000 * ours:.1f} | {other} | {'' if theirs is None else f'{theirs / ours:.2f}×'} |")


def classifier(dim, device):
    """Unit vectors for two synonyms of each class."""
    rows = torch.nn.functional.normalize(torch.randn(2 * CLASSES, dim, device=device), dim=1)
    seen = torch.arange(CLASSES, device=device) % 3 == 0
    return TextClassifier(rows, class_rows([2] * CLASSES).to(device), seen)


def original_model(arguments, model, words):
    """The original with the same weights and words."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
    from fcclip_original import build_original, import_original

    import_original(arguments.original, arguments.detectron2)
    name = model.config.open_clip_name
    channels = model.backbone.channels
    classes = {"train": ["class"], "test": [f"class{i},other{i}" for i in range(CLASSES)], "things": THINGS}
    settings = open_clip.get_model_config(name)
    theirs = build_original(arguments.original, name, settings, [channels[0], *channels], [], classes)
    assert not theirs.load_state_dict(published_state(model), strict=False).unexpected_keys
    theirs.test_text_classifier = words.text
    theirs.category_overlapping_mask = words.seen.long()
    theirs.semantic_on = theirs.instance_on = False
    return theirs.to(arguments.device)


def forward(arguments, model, words):
    """Seconds of every stage, ours and the original's."""
    size, config = arguments.size, model.config
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    things = torch.zeros(CLASSES, dtype=torch.bool, device=model.device)
    things[THINGS] = True
    batch = torch.randn(1, 3, size, size, device=model.device)
    pyramid = model.encode(batch)
    pixels = model.pixel_decoder(pyramid)
    proposals = model(batch)
    calls = {
        "image tower": lambda: model.encode(batch),
        "pixel decoder": lambda: model.pixel_decoder(pyramid),
        "mask decoder": lambda: model.decoder(pixels),
        "classification": lambda: model.classify(proposals, words),
        "all, with a panoptic map": lambda: model.predict([image], words)[0].panoptic(things),
    }
    if arguments.compile:
        compiled = torch.compile(model)
        calls["network"], calls["network, compiled"] = lambda: model(batch), lambda: compiled(batch)
    theirs = {}
    if arguments.original:
        other = original_model(arguments, model, words)
        head = other.sem_seg_head
        maps = other.backbone(batch)
        fine, _, levels = head.pixel_decoder.forward_features(maps)
        text = words.with_void(model.void).text
        tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())
        theirs = {
            "image tower": lambda: other.backbone(batch),
            "pixel decoder": lambda: head.pixel_decoder.forward_features(maps),
            "mask decoder": lambda: head.predictor(
                levels, fine, None, text_classifier=text, num_templates=[2] * CLASSES
            ),
            "all, with a panoptic map": lambda: other([{"image": tensor, "height": size, "width": size}]),
        }
        agree(other, batch, text, proposals)
    assert config.short_side == size
    both = {f"ours {k}": v for k, v in calls.items()} | {f"theirs {k}": v for k, v in theirs.items()}
    found = medians(both, arguments.rounds, arguments.device)
    return {name: (found[f"ours {name}"], found.get(f"theirs {name}")) for name in calls}


def agree(other, batch, text, proposals):
    """Print how far the masks of both are apart; speed means nothing where they are."""
    maps = other.backbone(batch)
    out = other.sem_seg_head(maps | {"text_classifier": text, "num_templates": [2] * CLASSES})
    apart = (out["pred_masks"] - proposals.masks).abs().max() / proposals.masks.abs().max()
    print(f"masks of both: {float(apart):.1e} of the largest logit apart")


def merge_by_loop(logits, masks, things, overlap):
    """What the vectorised merging replaces: a pass over the pixels for every mask."""
    scores, labels = logits.softmax(-1).max(-1)
    kept = (labels != logits.shape[1] - 1).nonzero()[:, 0]
    shares = masks.sigmoid()[kept]
    owner = (scores[kept][:, None, None] * shares).argmax(0)
    ids, stuff, count = torch.zeros(masks.shape[1:], dtype=torch.int32), {}, 0
    for i, query in enumerate(kept.tolist()):
        label = int(labels[query])
        covers, own = shares[i] >= 0.5, owner == i
        visible = covers & own
        if not visible.any() or own.sum().item() / covers.sum().item() < overlap:
            continue
        if label in stuff:
            ids[visible] = stuff[label]
            continue
        count += 1
        ids[visible] = count
        if not things[label]:
            stuff[label] = count
    return ids


def merging(arguments):
    """Seconds of panoptic merging of 250 masks at 640×640, both ways, with equal results."""
    stream = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 250, 12, 12, generator=stream) * 4 - 3
    masks = torch.nn.functional.interpolate(coarse, (640, 640), mode="bilinear")[0].to(arguments.device)
    logits = (torch.randn(250, CLASSES + 1, generator=stream) * 3).to(arguments.device)
    things = torch.arange(CLASSES, device=arguments.device) % 2 == 0
    assert torch.equal(
        panoptic(logits, masks, things, 0.0, 0.1).ids.cpu(), merge_by_loop(logits, masks, things, 0.1).cpu()
    )
    calls = {
        "ours": lambda: panoptic(logits, masks, things, 0.0, 0.1),
        "loop": lambda: merge_by_loop(logits, masks, things, 0.1),
    }
    found = medians(calls, arguments.rounds, arguments.device)
    return {"panoptic merging, 250 masks at 640×640": (found["ours"], found["loop"])}


@torch.inference_mode()
def main():
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clip", default="large", help="base, large, xxlarge, or a ConvNeXt of open_clip")
    parser.add_argument("--size", type=int, default=640, help="pixels of each side of the image")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--compile", action="store_true", help="also the network through torch.compile; takes minutes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--original", help="a clone of bytedance/fc-clip")
    parser.add_argument("--detectron2", help="a clone of facebookresearch/detectron2")
    parser.add_argument("--json", type=Path, default=Path("fcclip.json"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = FcClipConfig(clip=arguments.clip, short_side=arguments.size, long_side=2 * arguments.size)
    model = FCCLIP(config, arguments.precision).to(arguments.device)
    words = classifier(model.backbone.dim, arguments.device)
    merged = merging(arguments)
    table("merging", merged, "a loop over the masks")
    staged = forward(arguments, model, words)
    where = f"{config.open_clip_name}, {arguments.size}×{arguments.size}, {arguments.precision}, {arguments.device}"
    table(where, staged, "original")
    arguments.json.write_text(json.dumps({"where": where, "seconds": merged | staged}, indent=1))


if __name__ == "__main__":
    main()
