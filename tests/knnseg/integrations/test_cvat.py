"""The auto-annotation function under CVAT's own driver, which checks what it returns; only the server is not there."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
from cvat_sdk import auto_annotation as cvat
from cvat_sdk import models
from cvat_sdk.auto_annotation import driver
from cvat_sdk.masks import decode_mask
from PIL import Image

from knnseg import ConceptDatabase, Segmenter
from knnseg.datasets.formats.shapes import Polygons
from knnseg.integrations.cvat import SegmentFunction, create

NAMES = ["sky", "grass", "ball"]


@pytest.fixture
def segmenter(extractor, make_segmenter, scene, tmp_path):
    with ConceptDatabase.open(f"memory://{tmp_path}/db", extractor) as database:
        database.add([scene(i) for i in range(3)])
        yield make_segmenter(database)


def annotated(function, images, monkeypatch, labels=NAMES, **options):
    """What CVAT's driver uploads for a task with these images and labels."""
    samples = [
        SimpleNamespace(
            frame_name=f"{i}.png", frame_index=10 + i, media=SimpleNamespace(load_image=lambda image=image: image)
        )
        for i, image in enumerate(images)
    ]
    known = [
        models.Label(name=name, id=100 + i, type="any", attributes=[], sublabels=[]) for i, name in enumerate(labels)
    ]
    monkeypatch.setattr(driver, "TaskDataset", lambda *_, **__: SimpleNamespace(labels=known, samples=samples))
    uploaded = []
    api = SimpleNamespace(update_annotations=lambda _, labeled_data_request: uploaded.append(labeled_data_request))
    client = SimpleNamespace(logger=logging.getLogger("cvat"), tasks=SimpleNamespace(api=api))
    cvat.annotate_task(client, 1, function, clear_existing=True, **options)
    return uploaded[0].shapes


def test_masks_are_the_segments_pixel_by_pixel(segmenter, scene, monkeypatch):
    images = [scene(7).image, scene(8, size=(40, 56)).image]
    shapes = annotated(SegmentFunction(segmenter, NAMES), map(Image.fromarray, images), monkeypatch)
    for frame, image in enumerate(images):
        result = segmenter.predict(image, NAMES)
        drawn = np.full(image.shape[:2], -1, np.int32)
        own = [shape for shape in shapes if shape.frame == 10 + frame]
        for shape in own:
            drawn[decode_mask(shape.points, image_width=image.shape[1], image_height=image.shape[0])] = (
                shape.label_id - 100
            )
        assert np.array_equal(drawn, np.where(result.panoptic > 0, result.semantic, -1))
        assert [shape.score for shape in own] == pytest.approx([s.score for s in result.segments_info])


def test_polygons_where_cvat_wants_them(segmenter, scene, monkeypatch):
    image = scene(7).image
    shapes = annotated(SegmentFunction(segmenter, NAMES), [Image.fromarray(image)], monkeypatch, conv_mask_to_poly=True)
    result = segmenter.predict(image, NAMES)
    largest = max(result.segments_info, key=lambda s: s.area)
    drawn = Polygons(tuple(tuple(s.points) for s in shapes if s.label_id == 100 + NAMES.index(largest.label))).draw(
        image.shape[:2]
    )
    assert {shape.type.value for shape in shapes} == {"polygon"}
    assert (drawn & (result.panoptic == largest.id)).sum() > 0.95 * largest.area


def test_the_threshold_and_the_labels_of_the_task_are_heeded(segmenter, scene, monkeypatch):
    image, function = Image.fromarray(scene(7).image), SegmentFunction(segmenter)
    scores = sorted(shape.score for shape in annotated(function, [image], monkeypatch))
    least = scores[len(scores) // 2]
    kept = annotated(function, [image], monkeypatch, conf_threshold=least)
    assert sorted(shape.score for shape in kept) == [score for score in scores if score >= least]
    some = annotated(function, [image], monkeypatch, labels=["sky", "zebra"], allow_unmatched_labels=True)
    assert {shape.label_id for shape in some} == {100}


def test_it_is_made_from_the_options_of_cvats_command(monkeypatch, segmenter):
    asked = []
    monkeypatch.setattr(Segmenter, "from_config", lambda *given, **options: asked.append((given, options)) or segmenter)
    function = create(store="memory://x", classes="sky, ball")
    assert [label.name for label in function.spec.labels] == ["sky", "ball"]
    assert asked == [(("photo", "memory://x"), {"device": "auto", "create": False})]
