"""What retrieval adds to FC-CLIP's forward, with a database of 100,000 random examples.

    OMP_NUM_THREADS=1 python benchmarks/fcclip_retrieval.py [--clip base] [--size 640] [--entries 100000] [--rounds 5]

Weights, image and database are random. The masks that such weights make cover everything everywhere, which a trained
model's do not, so masks of a usual size are measured beside them. CPU time of one thread, everything in one run and in
turn; the share of the forward is what counts.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import timm
import torch
from fcclip import CLASSES, classifier, medians
from scipy import sparse

from knnseg import ConceptDatabase, Image, Masks, Vocabulary
from knnseg.config import FusionConfig, RetrievalConfig
from knnseg.database.concepts import FIELDS
from knnseg.method.fusion import fuse
from knnseg.method.pooling import pool
from knnseg.method.voting import confidence, vote, vote_weights
from knnseg.models.dinov2 import VARIANTS, DinoFeatures
from knnseg.models.fcclip import FCCLIP, FcClipConfig
from knnseg.models.fcclip.keys import FcClipFeatures
from knnseg.models.fcclip.preprocessing import prepare
from knnseg.models.fcclip.stage import FcClipProposer, FcClipSession, ensemble_of

NAMES = tuple(f"class{i}" for i in range(CLASSES))
VOCABULARY = Vocabulary(NAMES)
K = 16
EDGE = 4
"""Pixels over which the usual masks fade."""


def discs(count, size, share):
    """Masks that cover a share of the image each, with soft edges, held as FC-CLIP's are."""
    stream, (rows, columns) = np.random.default_rng(0), np.mgrid[:size, :size]
    radius, found = size * (share / np.pi) ** 0.5, []
    for y, x in stream.uniform(0, size, (count, 2)):
        inside = 1 / (1 + np.exp((np.hypot(rows - y, columns - x) - radius) / EDGE))
        found.append(sparse.csr_array(np.where(inside < 0.05, 0, inside).astype(np.float32).reshape(1, -1)))
    matrix = sparse.csr_array(sparse.vstack(found, format="csr"))
    return Masks(matrix, (size, size), np.ones(count, np.float32), instances=True)


def filled(url, extractor, entries):
    """A database of random vectors, as many of each class."""
    database, stream, step = ConceptDatabase.open(url, extractor), np.random.default_rng(1), 10_000
    blank = {str: "", int: 0, float: 0.0, bool: False}
    for start in range(0, entries, step):
        rows = range(start, min(start + step, entries))
        columns = {name: [blank[kind]] * len(rows) for name, kind in FIELDS.items()}
        columns["label"] = [NAMES[i % CLASSES] for i in rows]
        vectors = stream.standard_normal((len(rows), extractor.dim)).astype(np.float32)
        database.store.upsert([f"e{i}" for i in rows], vectors, columns)
    return database


def steps(database, extractor, masks, base, image):
    """Calls by name, each on the results of those before it."""
    features = extractor.extract([Image(image)])[0]
    embeddings = pool(features, masks)
    found = database.neighbours(embeddings, K, VOCABULARY)
    config, retrieval = FusionConfig(branch="out_vocab"), RetrievalConfig(k=K)

    def augment():
        counts = {concept.label: concept.count for concept in database.concepts()}
        weights = vote_weights(found, retrieval, counts)
        retrieved = vote(found, weights, VOCABULARY)
        supported = np.array([counts.get(name, 0) > 0 for name in NAMES])
        certainty = confidence(found, retrieved, config)
        return fuse(base, retrieved, certainty, supported, config)

    def fresh():
        """The masks as they come from the proposer: what scipy finds out about a matrix, it keeps with it."""
        matrix = masks.matrix
        return Masks(
            sparse.csr_array((matrix.data, matrix.indices, matrix.indptr), matrix.shape), masks.size, masks.scores
        )

    return {
        "pooling": lambda: pool(features, fresh()),
        "search": lambda: database.neighbours(embeddings, K, VOCABULARY),
        "votes, fusion, resuming": augment,
    }


def measure(arguments, folder):
    """Seconds by step, and which steps make up which way."""
    size = arguments.size
    config = FcClipConfig(clip=arguments.clip, short_side=size, long_side=2 * size)
    model = FCCLIP(config)
    session, words = FcClipSession(model), classifier(model.backbone.dim, "cpu")
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    batch = prepare([image], config, model.device).pixels
    _, proposals = session.look(Image(image))
    base = ensemble_of(model.classify(proposals, words), NAMES)
    everything = FcClipProposer(session).propose([Image(image)])[0]
    masks = {"masks of 6 %": discs(config.queries, size, 0.06), "masks over everything": everything}
    print(f"masks over everything: {everything.matrix.nnz / np.prod(everything.matrix.shape):.0%} of the pixels")
    own = FcClipFeatures(session)
    vit = timm.create_model(VARIANTS["dinov2-b14-reg"], num_classes=0, dynamic_img_size=True)
    dino = DinoFeatures("dinov2-b14-reg", vit, device="cpu")
    calls = {
        "forward": lambda: model.classify(model(batch), words),
        "own keys": lambda: own.extract([Image(image)]),
        "DINOv2-B": lambda: dino.extract([Image(image)]),
    }
    ways = {}
    for store in ("memory", "faiss"):
        for name, keys in (("own", own), ("DINOv2-B", dino)):
            database = filled(f"{store}://{folder}/{store}", keys, arguments.entries)
            for kind, some in masks.items():
                way = f"{name} keys, {store}, {kind}"
                parts = {f"{way}: {step}": call for step, call in steps(database, keys, some, base, image).items()}
                calls |= parts
                ways[way] = (["own keys"] if name == "own" else []) + list(parts)
    return medians(calls, arguments.rounds, "cpu"), ways


@torch.inference_mode()
def main():
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clip", default="large", help="base, large, xxlarge, or a ConvNeXt of open_clip")
    parser.add_argument("--size", type=int, default=640, help="pixels of each side of the image")
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=Path("fcclip_retrieval.json"))
    arguments = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        parser.error("expected OMP_NUM_THREADS=1 in the environment: threads that wait for others take CPU time too")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        seconds, ways = measure(arguments, folder)
    forward = seconds["forward"]
    print(f"\nforward {1000 * forward:.0f} ms, DINOv2-B {1000 * seconds['DINOv2-B']:.0f} ms")
    print(f"({seconds['DINOv2-B'] / forward:.1%} of the forward)\n\n| | ms | of the forward |\n|---|---:|---:|")
    for way, parts in ways.items():
        for part in parts:
            print(f"| {part} | {1000 * seconds[part]:.1f} | {seconds[part] / forward:.2%} |")
        total = sum(seconds[part] for part in parts)
        print(f"| **{way}** | {1000 * total:.1f} | **{total / forward:.2%}** |")
    arguments.json.write_text(json.dumps(seconds, indent=1))


if __name__ == "__main__":
    main()
