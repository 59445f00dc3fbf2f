"""Rendered scenes: the same every time, exact in their ground truth, and never showing what is held back."""

from __future__ import annotations

import numpy as np
import pytest

from knnseg.data.annotations import LabelledImage, LabelledSegment
from knnseg.datasets.rendered import CONCEPTS, RenderedScenes, describe
from knnseg.errors import DatasetError

SEEN = {concept.name for concept in CONCEPTS if not concept.held_back}
HELD_BACK = {concept.name for concept in CONCEPTS if concept.held_back}


@pytest.fixture(scope="module")
def scenes() -> list[LabelledImage]:
    """Two scenes for each concept, guaranteed to show it."""
    names = [concept.name for concept in CONCEPTS]
    return list(RenderedScenes(2 * len(names), seed=3, size=(96, 112), including=names))


def labels(scene: LabelledImage) -> set[str]:
    return {segment.label for segment in scene.info}


def test_there_are_enough_concepts_of_every_kind() -> None:
    assert len(CONCEPTS) == len(SEEN) + len(HELD_BACK) >= 40
    assert len(HELD_BACK) >= 12
    for held_back in (True, False):
        assert {concept.thing for concept in CONCEPTS if concept.held_back == held_back} == {True, False}


def test_a_scene_is_the_same_every_time_and_does_not_depend_on_the_count() -> None:
    one, other = RenderedScenes(3, seed=5, size=(64, 64))[2], RenderedScenes(50, seed=5, size=(64, 64))[2]
    assert np.array_equal(one.image, other.image)
    assert np.array_equal(one.segments, other.segments)
    assert one.info == other.info


@pytest.mark.parametrize("change", [{"seed": 6}, {"concepts": "seen"}, {"things": (0, 1)}, {"including": ["key"]}])
def test_another_seed_or_setting_is_another_scene(change: dict[str, object]) -> None:
    settings: dict[str, object] = {"seed": 5, "size": (64, 64)}
    one = RenderedScenes(1, **settings)[0]  # type: ignore[arg-type]
    other = RenderedScenes(1, **{**settings, **change})[0]  # type: ignore[arg-type]
    assert not np.array_equal(one.image, other.image)


def test_neighbouring_scenes_differ() -> None:
    first, second = RenderedScenes(2, size=(64, 64))
    assert not np.array_equal(first.image, second.image)


def test_arrays_have_the_promised_type_and_size(scenes: list[LabelledImage]) -> None:
    for scene in scenes:
        assert scene.image.dtype == np.uint8 and scene.image.shape == (96, 112, 3)
        assert scene.segments.dtype == np.int32 and scene.segments.shape == (96, 112)


def test_segment_map_and_info_name_the_same_numbers(scenes: list[LabelledImage]) -> None:
    for scene in scenes:
        numbers = [segment.id for segment in scene.info]
        assert numbers == list(range(1, len(numbers) + 1)) == np.unique(scene.segments).tolist()


def test_stuff_is_one_segment_per_class_and_things_are_one_per_instance(scenes: list[LabelledImage]) -> None:
    for scene in scenes:
        stuff = [segment.label for segment in scene.info if not segment.thing]
        assert len(set(stuff)) == len(stuff) >= 1
        for segment in scene.info:
            assert segment.thing == next(concept.thing for concept in CONCEPTS if concept.name == segment.label)
    doubled = [scene for scene in scenes if len(scene.info) > len(labels(scene))]
    assert doubled, "expected scenes with two instances of a class"


def test_every_concept_appears_and_the_guaranteed_one_is_well_visible(scenes: list[LabelledImage]) -> None:
    assert set().union(*map(labels, scenes)) == SEEN | HELD_BACK
    for i, scene in enumerate(scenes):
        name = CONCEPTS[i % len(CONCEPTS)].name
        pixels = max(int((scene.segments == segment.id).sum()) for segment in scene.info if segment.label == name)
        assert pixels >= 0.005 * 96 * 112, (name, pixels)


def test_nothing_is_hidden_to_a_few_pixels(scenes: list[LabelledImage]) -> None:
    smallest = min(np.bincount(scene.segments.reshape(-1))[1:].min() for scene in scenes)
    assert smallest >= 20


def test_a_segment_is_where_its_colours_are() -> None:
    """Grass is green pixel by pixel, and what is beside it mostly is not: map and picture are aligned."""
    inside, outside = [], []
    for scene in RenderedScenes(12, seed=9, size=(96, 96), including=["grass"], things=(0, 0)):
        number = next(segment.id for segment in scene.info if segment.label == "grass")
        colour = scene.image.astype(np.int16)
        green = colour[..., 1] - np.maximum(colour[..., 0], colour[..., 2]) > 0
        inside.append(green[scene.segments == number].mean())
        outside += [green[scene.segments != number].mean()] if len(scene.info) > 1 else []
    assert min(inside) > 0.9
    assert np.mean(outside) < 0.4


def test_scenes_of_seen_concepts_never_show_or_name_what_is_held_back() -> None:
    scenes = RenderedScenes(150, seed=1000, size=(48, 48), concepts="seen")
    assert set(scenes.classes) == SEEN
    shown = set()
    for scene in scenes:
        shown |= labels(scene)
        assert not any(name in describe(scene.info) for name in HELD_BACK)
    assert shown == SEEN


def test_scenes_of_held_back_concepts_show_nothing_else() -> None:
    scenes = RenderedScenes(20, size=(48, 48), concepts="held_back")
    assert set().union(*map(labels, scenes)) <= HELD_BACK == set(scenes.classes)


def test_classes_tell_what_can_appear() -> None:
    scenes = RenderedScenes(2, concepts="seen", including=["kettle", "lava"])
    assert set(scenes.classes) == SEEN | {"kettle", "lava"}
    assert "kettle" in scenes.thing_classes
    assert "lava" not in scenes.thing_classes


@pytest.mark.parametrize("size", [(32, 32), (160, 160), (97, 201), (240, 64)])
def test_any_size(size: tuple[int, int]) -> None:
    scene = RenderedScenes(1, seed=2, size=size)[0]
    assert scene.image.shape == (*size, 3)
    assert int(scene.image.max()) - int(scene.image.min()) > 60


def test_it_is_a_sequence() -> None:
    scenes = RenderedScenes(4, size=(32, 32))
    assert len(scenes) == len(list(scenes)) == 4
    assert np.array_equal(scenes[-1].image, scenes[3].image)
    assert [scene.image_id for scene in scenes[1:3]] == ["0-1", "0-2"]
    with pytest.raises(IndexError, match="below 4, got 4"):
        scenes[4]


def test_a_scene_without_things_is_only_stuff() -> None:
    assert not any(segment.thing for scene in RenderedScenes(5, size=(48, 48), things=(0, 0)) for segment in scene.info)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": -1}, "count of at least 0, got -1"),
        ({"count": 1, "seed": -2}, "seed of at least 0, got -2"),
        ({"count": 1, "size": (16, 64)}, r"at least 32 pixels each, got \(16, 64\)"),
        ({"count": 1, "concepts": "unseen"}, "one of seen, held_back, all, got 'unseen'"),
        ({"count": 1, "things": (3, 1)}, r"\(fewest, most\), got \(3, 1\)"),
        ({"count": 1, "including": ["teapot"]}, "got 'teapot'"),
        ({"count": 1, "including": "kettle"}, "got the string 'kettle'"),
    ],
)
def test_bad_arguments_say_what_was_expected(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        RenderedScenes(**arguments)  # type: ignore[arg-type]


def test_captions() -> None:
    info = [
        LabelledSegment(1, "brick wall"),
        LabelledSegment(2, "sand"),
        LabelledSegment(3, "star", True),
        LabelledSegment(4, "fish", True),
        LabelledSegment(5, "fish", True),
        LabelledSegment(6, "apple", True),
    ]
    assert describe(info) == "a star, two fish and an apple on sand in front of a brick wall"
    assert describe(info[1:2]) == "on sand"
    scenes = RenderedScenes(1, size=(32, 32))
    assert scenes.caption(0) == describe(scenes[0].info)
