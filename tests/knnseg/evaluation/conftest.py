"""Folders of scenes in COCO's panoptic form, and a database of other scenes, for the bundled model."""

import json

import numpy as np
import pytest
from PIL import Image

from knnseg import Segmenter
from knnseg.datasets import CocoPanoptic, RenderedScenes

INCLUDING = ("kettle", "lava", "pineapple")


def write_coco(root, scenes):
    for folder in ("images", "png"):
        (root / folder).mkdir(parents=True)
    names = list(scenes.classes)
    images, annotations = [], []
    for i, scene in enumerate(scenes):
        Image.fromarray(scene.image).save(root / "images" / f"{i}.png")
        digits = [(scene.segments // 256**k % 256).astype(np.uint8) for k in range(3)]
        Image.fromarray(np.stack(digits, -1)).save(root / "png" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png"})
        info = [{"id": s.id, "category_id": names.index(s.label) + 1, "iscrowd": 0} for s in scene.info]
        annotations.append({"image_id": i, "file_name": f"{i}.png", "segments_info": info})
    things = scenes.thing_classes
    categories = [{"id": i, "name": n, "isthing": int(n in things)} for i, n in enumerate(names, 1)]
    (root / "coco.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )


@pytest.fixture(scope="session")
def scenes_folder(tmp_path_factory):
    """``coco.json``, ``images`` and ``png`` of six scenes to measure on, and ``store``, filled from nine others."""
    root = tmp_path_factory.mktemp("scenes")
    write_coco(root, RenderedScenes(6, seed=5, size=(96, 96), including=INCLUDING))
    with Segmenter.from_config("tiny", f"faiss://{root}/store") as segmenter:
        segmenter.database.add(RenderedScenes(9, seed=6, size=(96, 96), including=INCLUDING))
    return root


@pytest.fixture
def examples(scenes_folder):
    return CocoPanoptic(scenes_folder / "images", scenes_folder / "png", scenes_folder / "coco.json")


@pytest.fixture
def segmenter(scenes_folder):
    with Segmenter.from_config("tiny", f"faiss://{scenes_folder}/store", create=False) as segmenter:
        yield segmenter
