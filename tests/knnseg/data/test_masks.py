"""Region proposals, and masks that overlap."""

import numpy as np
import pytest

from knnseg import Image, LabelledImage, LabelledSegment, Masks
from knnseg.config import StageConfig
from knnseg.data.masks import add_remainder, resolve_overlaps
from knnseg.errors import ConfigError, MaskError, ShapeError
from knnseg.models.regions import RegionProposer
from knnseg.stages import registry as stages


@pytest.mark.parametrize(
    ("scales", "superpixels"), [((100, 400), (150,)), ((30,), ()), ((), (20, 60)), ([50, 100, 200], [10])]
)
def test_each_partition_covers_every_pixel_once(scene, scales, superpixels):
    image = scene(1, ("sky", "sand", "ball", "kettle")).image
    masks = RegionProposer(scales=scales, superpixels=superpixels).propose([Image(image)])[0]
    covered = np.asarray(masks.matrix.sum(axis=0)).reshape(-1)
    assert (covered == len(scales) + len(superpixels)).all() and (masks.scores == 1).all() and not masks.instances
    parts = [RegionProposer(scales=[s], superpixels=[]).propose([Image(image)])[0] for s in scales]
    parts += [RegionProposer(scales=[], superpixels=[n]).propose([Image(image)])[0] for n in superpixels]
    assert len(masks) == sum(map(len, parts))
    assert all((part.matrix.sum(axis=0) == 1).all() for part in parts)


def test_min_area_holds_for_regions(scene):
    masks = RegionProposer(scales=[10], min_area=40, superpixels=[]).propose([Image(scene(2).image)])[0]
    assert masks.areas.min() >= 40


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 3), (64, 64)])
def test_small_and_flat_images(size):
    masks = RegionProposer().propose([Image(np.full((*size, 3), 128, np.uint8))])[0]
    assert masks.size == size and (masks.matrix.sum(axis=0) == 5).all()


def test_proposals_repeat(scene):
    image = scene(3).image
    one, other = (RegionProposer().propose([Image(image)])[0].matrix for _ in range(2))
    assert (one != other).nnz == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": [], "superpixels": []}, "at least one of scales and superpixels"),
        ({"scales": [0]}, "scales: expected a list of numbers above 0"),
        ({"scales": ["big"]}, "scales: expected a list of numbers above 0"),
        ({"scales": 100}, "scales: expected a list"),
        ({"scales": "100"}, "scales: expected a list"),
        ({"superpixels": [0]}, "superpixels: expected a list of whole numbers of at least 1"),
        ({"superpixels": [1.5]}, "superpixels: expected a list of whole"),
        ({"superpixels": 150}, "superpixels: expected a list"),
        ({"sigma": -1}, "sigma: expected a number"),
        ({"min_area": 0}, "min_area: expected a number"),
        ({"compactness": 0}, "compactness: expected a number"),
        ({"compactness": float("nan")}, "compactness: expected a number"),
        ({"superpixles": [3]}, "Did you mean 'superpixels'"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        stages.make("masks", StageConfig("regions", options))


# -- overlaps ---------------------------------------------------------------------------------------------------------


def stack(*pictures, scores=None, instances=False):
    """Masks drawn as text: # covers, + covers by half, - by less."""
    levels = {"#": 1.0, "+": 0.5, "-": 0.25, ".": 0.0}
    arrays = [[[levels[c] for c in row] for row in picture.split()] for picture in pictures]
    return Masks.from_dense(np.array(arrays, np.float32), scores, instances=instances)


def drawn(masks):
    letters = {1.0: "#", 0.5: "+", 0.25: "-", 0.0: "."}
    dense = masks.matrix.toarray().reshape(len(masks), *masks.size)
    return [" ".join("".join(letters[float(v)] for v in row) for row in mask) for mask in dense]


def test_a_part_keeps_its_pixels_and_the_whole_keeps_the_rest():
    whole, part, subpart = "####. ####. ####.", "##... ##... .....", "#.... ..... ....."
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):  # whatever comes first
        given = [(whole, part, subpart)[i] for i in order]
        expected = [("..##. ..##. ####.", ".#... ##... .....", "#.... ..... .....")[i] for i in order]
        scores = np.array([(0.99, 0.9, 0.8)[i] for i in order], np.float32)
        resolved = resolve_overlaps(stack(*given, scores=scores))
        assert drawn(resolved) == expected and (resolved.scores == scores).all() and not resolved.instances


def test_of_equal_sizes_the_most_certain_wins():
    masks = stack("##.", ".##", scores=np.array([0.7, 0.8], np.float32), instances=True)
    resolved = resolve_overlaps(masks)
    assert drawn(resolved) == ["#..", ".##"] and resolved.instances
    assert drawn(resolve_overlaps(masks.select([1, 0]))) == [".##", "#.."]


def test_a_mask_that_its_parts_cover_is_gone():
    resolved = resolve_overlaps(stack("####", "##..", "..##", "....", scores=np.array([1, 0.5, 0.6, 1], np.float32)))
    assert drawn(resolved) == ["##..", "..##"]
    assert resolved.scores.tolist() == pytest.approx([0.5, 0.6])


def test_coverage_by_half_counts_and_keeps_its_value():
    assert drawn(resolve_overlaps(stack("###-.", "..+#-"))) == ["##...", "..+#."]


def test_masks_without_overlaps_stay_as_they_are():
    masks = stack("#.. #..", ".#. ...", "... .##")
    assert drawn(resolve_overlaps(masks)) == drawn(masks)
    assert len(resolve_overlaps(masks.select([]))) == 0


def test_many_random_masks_share_no_pixel_and_lose_none():
    rng = np.random.default_rng(0)
    masks = Masks.from_dense(rng.random((30, 17, 23)) < rng.random((30, 1, 1)), rng.random(30).astype(np.float32))
    resolved = resolve_overlaps(masks)
    owners = np.asarray(resolved.matrix.sum(axis=0)).reshape(17, 23)
    assert (owners == masks.dense().any(0)).all()
    for y, x in np.ndindex(17, 23):  # pixel by pixel, as the rule reads
        over = [i for i in range(30) if masks[i][y, x]]
        best = min(over, key=lambda i: (masks.areas[i], -masks.scores[i]), default=None)
        own = np.flatnonzero(resolved.dense()[:, y, x])
        assert best is None or resolved.scores[own[0]] == masks.scores[best]


def test_the_remainder_is_what_no_mask_covers():
    masks = stack("##- ...", "... #..", scores=np.array([0.9, 0.4], np.float32))
    whole = add_remainder(masks)
    assert drawn(whole) == [*drawn(masks), "..# .##"]
    assert whole.scores.tolist() == pytest.approx([0.9, 0.4, 0.4])
    assert add_remainder(whole) is whole
    alone = add_remainder(masks.select([]))
    assert drawn(alone) == ["### ###"] and alone.scores.tolist() == [1.0]
    assert add_remainder(stack("#", instances=True).select([])).instances


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.uint16, np.int64, np.uint64])
def test_masks_and_maps_of_any_whole_numbers(dtype):
    drawn = np.zeros((2, 4, 5), dtype)
    drawn[0, 1:3, 1:3] = drawn[1, 0] = 1
    expected = Masks.from_dense(drawn.astype(bool)).dense()
    assert np.array_equal(Masks.from_dense(drawn).dense(), expected)
    image = np.zeros((4, 5, 3), np.uint8)
    example = LabelledImage(image, drawn[0], (LabelledSegment(1, "kettle"),))
    assert example.segments.dtype == np.int32 and np.array_equal(example.segments > 0, expected[0])
    if dtype is np.uint8:
        assert np.array_equal(Masks.from_dense(drawn * 255).dense(), expected)
        with pytest.raises(MaskError, match=r"expected 0 and one other number, got \[1, 2\]"):
            Masks.from_dense(np.concatenate([drawn, drawn * 2]))
    if dtype is np.uint64:
        with pytest.raises(ShapeError, match="fit int32"):
            LabelledImage(image, drawn[0] << 40, ())
