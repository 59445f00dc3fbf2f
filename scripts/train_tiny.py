"""Train the bundled ``tiny`` model: a real, if small, open_clip model of rendered scenes.

    python scripts/train_tiny.py --output knnseg/models/tiny

Two contrastive losses with one temperature. The global one is CLIP's (Radford et al., arXiv 2103.00020): images against
captions within the batch. The regional one follows RegionCLIP (Zhong et al., arXiv 2112.09106): mask-pooled *dense*
embeddings, taken exactly as at inference, against the texts of all concepts, worded differently at each step. Only seen
concepts are drawn or named; what ``knnseg.datasets.CONCEPTS`` marks as held back stays unknown to the model.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from tiny_data import SEEN, Batch, Pool, region_prompt
from tiny_eval import evaluate, load
from tiny_model import encode_images, encode_texts, normalised, pool
from torch import Tensor
from torch.nn import functional as F

__all__ = ["CONFIG", "train"]

CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 128, "layers": 5, "width": 128, "head_width": 32, "patch_size": 8, "mlp_ratio": 2.0},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
_SHAPES = ((64, 32, 0.5), (96, 16, 0.3), (128, 9, 0.2))
"""(pixels, batch size, probability): about as many tokens in each step."""

_MAX_SCALE = math.log(40.0)
_SMOOTHING = 0.05
_GLOBAL_WEIGHT, _GLOBAL_EVERY = 0.5, 3
_AVERAGE = 0.99


def _losses(
    model: Any, tokenizer: Any, batch: Batch, rng: np.random.Generator, whole: bool
) -> tuple[Tensor | None, Tensor, float]:
    """Global loss if ``whole``, regional loss, and the accuracy of the regions."""
    captions = batch.captions if whole else []
    texts = encode_texts(model, tokenizer, [region_prompt(name, rng) for name in SEEN] + captions)
    classes = texts[: len(SEEN)]
    images, dense = encode_images(model, normalised(batch.images), whole)
    scale = model.logit_scale.exp()
    contrast = None
    if images is not None:
        logits = scale * F.normalize(images, dim=-1) @ texts[len(SEEN) :].T
        target = torch.arange(len(logits))
        contrast = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    kept = batch.labels >= 0
    regions, labels = pool(dense, batch.weights)[kept], batch.labels[kept]
    scores = scale * regions @ classes.T
    part = F.cross_entropy(scores, labels, label_smoothing=_SMOOTHING)
    return contrast, part, float((scores.argmax(1) == labels).float().mean())


def _optimizer(model: Any, rate: float) -> torch.optim.AdamW:
    """Weight decay on matrices only, and none on token embeddings: words that are never read stay as they are."""
    decayed = [p for n, p in model.named_parameters() if p.ndim > 1 and "embedding" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim <= 1 or "embedding" in n]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


def train(scenes: Pool, steps: int, seed: int, rate: float, output: Path, start: Path | None = None) -> Any:
    """Train for ``steps`` steps, from the weights in ``start`` if given; save and return their running average."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model, tokenizer = CLIP(**CONFIG), SimpleTokenizer(context_length=CONFIG["text_cfg"]["context_length"])
    if start is not None:
        model = load(start)[0].train()
    average, optimizer = copy.deepcopy(model).eval(), _optimizer(model, rate)
    began, seen, log = time.perf_counter(), 0, []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min((step + 1) / 60, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        side, count, _ = _SHAPES[rng.choice(len(_SHAPES), p=[shape[2] for shape in _SHAPES])]
        batch = scenes.batch(count, side, rng)
        whole, part, accuracy = _losses(model, tokenizer, batch, rng, step % _GLOBAL_EVERY == 0)
        optimizer.zero_grad()
        torch.autograd.backward(part if whole is None else part + _GLOBAL_WEIGHT * whole)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        _after_step(model, average, step)
        seen += count
        log.append((math.nan if whole is None else whole.item(), part.item(), accuracy))
        if step % 50 == 49:
            took, mean = time.perf_counter() - began, np.nanmean(log[-50:], axis=0)
            print(
                f"step {step + 1} {seen / took:.1f} images/s {took:.0f} s  global {mean[0]:.3f}  region {mean[1]:.3f} "
                f"accuracy {mean[2]:.3f}  scale {model.logit_scale.exp().item():.1f}",
                flush=True,
            )
        if step % 200 == 199:
            save(average, output)
    print(f"trained {steps} steps, {seen} images in {time.perf_counter() - began:.0f} s", flush=True)
    return average


@torch.no_grad()
def _after_step(model: Any, average: Any, step: int) -> None:
    model.logit_scale.clamp_(0.0, _MAX_SCALE)
    keep = min(_AVERAGE, (step + 1) / (step + 10))
    for mean, new in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(new, 1 - keep)


def save(model: Any, output: Path) -> None:
    """Write ``model.safetensors`` (fp16) and ``config.json``."""
    output.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, output / "model.safetensors")
    (output / "model.safetensors").chmod(0o644)  # it is written readable by its owner alone
    (output / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Render, train, save and evaluate."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("knnseg/models/tiny"))
    parser.add_argument("--steps", type=int, default=1400)
    parser.add_argument("--scenes", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scene-seed", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--start-from", type=Path, help="go on from the weights in this folder")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, help="keep the rendered scenes in this .npz file")
    parser.add_argument("--evaluate-only", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.evaluate_only:
        began = time.perf_counter()
        scenes = Pool.render(options.scenes, options.scene_seed, cache=options.cache)
        print(f"{len(scenes.images)} scenes in {time.perf_counter() - began:.0f} s", flush=True)
        average = train(scenes, options.steps, options.seed, options.rate, options.output, options.start_from)
        save(average, options.output)
    print(json.dumps(evaluate(options.output), indent=2), flush=True)


if __name__ == "__main__":
    main()
