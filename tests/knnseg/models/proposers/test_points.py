"""SAM and SAM 2: points where they belong, the masks of transformers' own generator, overlaps and specks."""

import numpy as np
import pytest
import transformers
from PIL import Image

from knnseg.data.image import Image as Picture
from knnseg.data.masks import resolve_overlaps
from knnseg.data.reading import resize, within
from knnseg.errors import ConfigError
from knnseg.models.proposers import points
from knnseg.models.proposers.points import PointProposer, _without_specks, load_sam, load_sam2
from knnseg.stages.protocols import MaskProposer

EVERYTHING = {
    "points_per_side": 6, "points_per_batch": 7, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0,
    "box_nms_thresh": 1.0, "overlaps": "keep", "remainder": False, "device": "cpu",
}  # fmt: skip
THRESHOLDS = {"pred_iou_thresh": 0.1, "stability_score_thresh": 0.5}


_LOADED = {}


def made(load, folder, **options):
    """A proposer of a network that is loaded once for all tests."""
    if (load, folder) not in _LOADED:
        first = load(str(folder), device="cpu")
        _LOADED[load, folder] = first._model, first._processor
    return PointProposer(*_LOADED[load, folder], **options)


def dense(masks):
    return masks.matrix.toarray().reshape(len(masks), *masks.size)


def generated(folder, image, **options):
    """What transformers' pipeline makes of the image."""
    pipe = transformers.pipeline("mask-generation", model=str(folder), device="cpu")
    own = {"points_per_crop": 6, "points_per_batch": 7, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
    made = pipe(Image.fromarray(image), **own | {"crops_nms_thresh": 1.0} | options)
    masks = [np.asarray(mask) for mask in made["masks"]]
    kept = [i for i, mask in enumerate(masks) if mask.any()]
    return [masks[i] for i in kept], np.clip(made["scores"].numpy()[kept], 0, 1)


@pytest.mark.parametrize(("load", "folder"), [(load_sam, "sam_folder"), (load_sam2, "sam2_folder")])
def test_a_large_photograph_is_cut_on_a_bounded_copy(load, folder, image, request, monkeypatch):
    proposer = made(load, request.getfixturevalue(folder), **EVERYTHING | {"remainder": True})
    monkeypatch.setattr(points, "MASK_SIDE", 40)
    masks, height = proposer.propose([Picture(image)])[0], image.shape[0]
    assert masks.size == image.shape[:2] and masks.grid == within(masks.size, 40) and height > masks.grid[0]
    copy = proposer.propose([Picture(resize(image, masks.grid))])[0]
    assert (copy.matrix != masks.matrix).nnz == 0


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"box_nms_thresh": 0.5}, {"crops_nms_thresh": 0.5}),
        (THRESHOLDS, THRESHOLDS),
        ({"crop_n_layers": 1}, {"crops_n_layers": 1}),
    ],
    ids=["everything", "near duplicates", "thresholds", "crops"],
)
def test_sam_agrees_with_transformers_own_generator(sam_folder, image, ours, theirs):
    masks = made(load_sam, sam_folder, **EVERYTHING | ours).propose([Picture(image)])[0]
    expected, scores = generated(sam_folder, image, **theirs)
    assert len(masks) == len(expected) > 0 and not masks.instances
    np.testing.assert_allclose(masks.scores, scores, atol=1e-4)
    differ = [(mask != other).mean() for mask, other in zip(dense(masks) > 0, expected, strict=True)]
    assert max(differ) < 1e-3


def test_sam2_agrees_with_it_on_a_square(sam2_folder, image):
    square = np.ascontiguousarray(image[:, :45])
    masks = made(load_sam2, sam2_folder, **EVERYTHING).propose([Picture(square)])[0]
    expected, scores = generated(sam2_folder, square)
    assert len(masks) == len(expected) > 1
    np.testing.assert_allclose(masks.scores, scores, atol=1e-4)
    assert all((mask == other).mean() > 0.999 for mask, other in zip(dense(masks) > 0, expected, strict=True))


@pytest.mark.parametrize(("load", "reach"), [(load_sam, (64, 41)), (load_sam2, (64, 64))])
def test_points_reach_all_of_an_image_that_is_no_square(sam_folder, sam2_folder, image, load, reach):
    """SAM pads 45×71 to a square after scaling it to 41×64; SAM 2 stretches it to 64×64."""
    proposer = made(load, sam_folder if load is load_sam else sam2_folder, **EVERYTHING)
    seen = []
    hook = proposer._model.prompt_encoder.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs.get("input_points", args[0] if args else None)), with_kwargs=True
    )
    proposer.propose([Picture(image)])[0]
    hook.remove()
    places = np.concatenate([batch.reshape(-1, 2).numpy() for batch in seen])
    assert isinstance(proposer, MaskProposer) and places.shape == (36, 2)
    for axis in (0, 1):
        expected = (np.arange(6) + 0.5) / 6 * reach[axis]
        np.testing.assert_allclose(np.unique(places[:, axis].round(3)), expected.round(3), atol=2e-3)


def test_memory_is_bounded_without_a_trace_in_the_result(sam_folder, image, monkeypatch):
    proposer = made(load_sam, sam_folder, **EVERYTHING)
    together = proposer.propose([Picture(image)])[0]
    monkeypatch.setattr(points, "_VALUES", 2 * 64 * 64)
    apart = proposer.propose([Picture(image)])[0]
    assert (together.matrix != apart.matrix).nnz == 0 and (together.scores == apart.scores).all()


@pytest.mark.parametrize("load", [load_sam, load_sam2])
def test_overlaps_and_remainder(sam_folder, sam2_folder, image, load):
    folder = sam_folder if load is load_sam else sam2_folder
    kept = made(load, folder, **EVERYTHING).propose([Picture(image)])[0]
    assert (dense(kept).sum(0) > 1).any()  # there is something to resolve
    resolved = made(load, folder, **EVERYTHING | {"overlaps": "resolve"}).propose([Picture(image)])[0]
    assert (dense(resolved).sum(0) == (dense(kept).max(0) > 0)).all()
    assert (resolved.matrix != resolve_overlaps(kept).matrix).nnz == 0
    for overlaps in ("keep", "resolve"):
        whole = made(load, folder, **EVERYTHING | {"overlaps": overlaps, "remainder": True}).propose([Picture(image)])[
            0
        ]
        assert (dense(whole).sum(0) >= 1).all()
    uncovered = bool((dense(kept).max(0) == 0).any())
    assert (dense(whole).sum(0) == 1).all() and len(whole) == len(resolved) + uncovered


def test_nothing_found(sam_folder, image):
    none = made(load_sam, sam_folder, **EVERYTHING | {"stability_score_thresh": 1.0}).propose([Picture(image)])[0]
    assert len(none) == 0 and none.size == (45, 71)
    rest = made(load_sam, sam_folder, **EVERYTHING | {"stability_score_thresh": 1.0, "remainder": True}).propose(
        [Picture(image)]
    )[0]
    assert len(rest) == 1 and rest.areas[0] == 45 * 71 and rest.scores[0] == 1


@pytest.mark.parametrize("size", [(1, 1), (3, 90), (130, 31)])
def test_any_size(sam_folder, sam2_folder, size):
    picture = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    for load, folder in ((load_sam, sam_folder), (load_sam2, sam2_folder)):
        masks = made(load, folder, **EVERYTHING | {"overlaps": "resolve", "remainder": True}).propose(
            [Picture(picture)]
        )[0]
        assert masks.size == size and (dense(masks).sum(0) == 1).all()


def test_proposals_repeat(sam2_folder, image):
    one, other = (made(load_sam2, sam2_folder, **EVERYTHING).propose([Picture(image)])[0] for _ in range(2))
    assert (one.matrix != other.matrix).nnz == 0 and (one.scores == other.scores).all()


def test_specks_and_holes():
    mask = np.zeros((12, 20), bool)
    mask[1:9, 1:9] = True
    mask[4:6, 4:6] = False  # a hole of 4
    mask[10, 15:18] = True  # an island of 3
    mask[9, 9] = True  # touches the square by a corner
    square = np.zeros_like(mask)
    square[1:9, 1:9] = square[9, 9] = True
    assert (_without_specks(mask, 5) == square).all()
    assert (_without_specks(mask, 4) == (square & mask)).all()  # a hole of as many pixels stays
    assert (_without_specks(mask, 1) == mask).all()
    assert (_without_specks(mask, 1000) == np.ones_like(mask)).all()  # the background is a hole too
    assert not _without_specks(np.zeros_like(mask), 5).any()
    two = np.zeros((4, 40), bool)
    two[1, 1:4] = two[1, 30:32] = True
    largest = np.zeros_like(two)
    largest[1, 1:4] = True
    assert (_without_specks(two, 10) == largest).all()


def test_small_regions_are_removed_from_proposals(sam2_folder, image):
    before = made(load_sam2, sam2_folder, **EVERYTHING).propose([Picture(image)])[0]
    after = made(load_sam2, sam2_folder, **EVERYTHING | {"min_mask_region_area": 20}).propose([Picture(image)])[0]
    cleaned = np.stack([_without_specks(mask > 0, 20) for mask in dense(before)])
    assert (cleaned == (dense(after) > 0)).all() and (cleaned != (dense(before) > 0)).any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"points_per_side": 0}, {"points_per_batch": 0}, {"pred_iou_thresh": 1.1}, {"stability_score_thresh": -0.1},
        {"box_nms_thresh": 2.0}, {"crop_n_layers": -1}, {"min_mask_region_area": -1}, {"overlaps": "merge"},
        {"remainder": 1}, {"pred_iou_thresh": "high"}, {"points_per_side": 3.0}, {"crop_n_layers": True},
    ],
)  # fmt: skip
def test_options_out_of_range(sam_folder, wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        made(load_sam, sam_folder, **{"device": "cpu"} | wrong)
