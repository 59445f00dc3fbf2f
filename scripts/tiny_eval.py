"""Measures the bundled ``tiny`` model on scenes that it has never seen, with ground-truth masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file
from tiny_data import SEEN, coverage
from tiny_model import encode_images, encode_texts, normalised, pool

from knnseg.datasets.rendered import CONCEPTS, RenderedScenes

__all__ = ["embed", "evaluate", "load"]

_NAMES = tuple(concept.name for concept in CONCEPTS)
_HELD_BACK = frozenset(_NAMES) - frozenset(SEEN)


def load(folder: Path) -> tuple[Any, Any]:
    """The model in float32, and its tokenizer."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = CLIP(**config)
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()})
    return model.eval(), SimpleTokenizer(context_length=config["text_cfg"]["context_length"])


@torch.no_grad()
def embed(model: Any, scenes: RenderedScenes) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    """Unit-norm float32 (N, D) for each segment that covers at least one cell, and its label."""
    vectors, labels = [], []
    for scene in scenes:
        image = torch.from_numpy(scene.image).permute(2, 0, 1)[None].float() / 255
        weights = coverage(torch.from_numpy(scene.segments)[None].long(), len(scene.info))
        pooled = pool(encode_images(model, normalised(image), whole=False)[1], weights)[0].numpy()
        kept = [i for i in range(len(scene.info)) if float(weights[0, i].sum()) >= 1]
        vectors.append(pooled[kept])
        labels += [scene.info[i].label for i in kept]
    return np.concatenate(vectors), np.array(labels)


def _vote(
    queries: NDArray[np.float32], keys: NDArray[np.float32], labels: NDArray[np.str_], k: int
) -> NDArray[np.str_]:
    """The label with the most similarity-weighted votes among the k nearest keys."""
    similarity = queries @ keys.T
    nearest = np.argsort(-similarity, axis=1)[:, :k]
    classes, codes = np.unique(labels, return_inverse=True)
    votes = np.zeros((len(queries), len(classes)))
    weights = np.exp((np.take_along_axis(similarity, nearest, 1) - 1) / 0.05)
    for slot in range(nearest.shape[1]):
        np.add.at(votes, (np.arange(len(queries)), codes[nearest[:, slot]]), weights[:, slot])
    return np.asarray(classes[votes.argmax(1)])


def evaluate(folder: Path, sizes: tuple[int, ...] = (128, 192, 256)) -> dict[str, dict[str, float]]:
    """Accuracy per segment at each image size: zero-shot, and by neighbours from 5 to 10 examples of each concept."""
    model, tokenizer = load(folder)
    with torch.no_grad():
        plain = encode_texts(model, tokenizer, list(_NAMES)).numpy()
        photo = encode_texts(model, tokenizer, [f"a photo of a {name}." for name in _NAMES]).numpy()
    seen_rows = [_NAMES.index(name) for name in SEEN]
    report = {}
    for side in sizes:
        known, truth = embed(model, RenderedScenes(120, 501, (side, side), "seen"))
        names = np.array(SEEN)
        figures = {
            "zero-shot, seen scenes, seen names": np.mean(names[(known @ photo[seen_rows].T).argmax(1)] == truth),
            "the same, bare names": np.mean(names[(known @ plain[seen_rows].T).argmax(1)] == truth),
            "the same, all names": np.mean(np.array(_NAMES)[(known @ photo.T).argmax(1)] == truth),
        }
        figures |= _retrieval(model, photo, side)
        report[str(side)] = {name: round(float(value), 3) for name, value in figures.items()}
    return report


def _retrieval(model: Any, photo: NDArray[np.float32], side: int) -> dict[str, Any]:
    """Zero-shot and 1-NN, 10-NN on scenes of all concepts."""
    keys, labels = embed(model, RenderedScenes(5 * len(_NAMES), 701, (side, side), "all", including=_NAMES))
    # At most ten examples of each concept, as few as a user would give.
    first = np.concatenate([np.flatnonzero(labels == name)[:10] for name in _NAMES])
    keys, labels = keys[first], labels[first]
    queries, truth = embed(model, RenderedScenes(2 * len(_NAMES), 601, (side, side), "all", including=_NAMES))
    held = np.isin(truth, sorted(_HELD_BACK))
    zero = np.array(_NAMES)[(queries @ photo.T).argmax(1)] == truth
    figures: dict[str, Any] = {
        "zero-shot, all, held back": zero[held].mean(),
        "zero-shot, all, seen": zero[~held].mean(),
    }
    for k in (1, 10):
        right = _vote(queries, keys, labels, k) == truth
        figures |= {
            f"{k}-NN, held back": right[held].mean(),
            f"{k}-NN, seen": right[~held].mean(),
            f"{k}-NN, all": right.mean(),
        }
    return figures
