"""Against FC-CLIP's own instance inference, and rule by rule."""

import numpy as np
import pytest
import torch
from scipy import sparse

from knnseg import ClassScores, Masks, Vocabulary
from knnseg.config import PaintingConfig
from knnseg.method.instances import Instance, find_instances, mask_instances, segment_instances
from knnseg.method.painting import paint
from knnseg.models.fcclip.inference import instances as reference

VOCABULARY = Vocabulary(("grass", "ball", "kettle"), frozenset({"ball", "kettle"}))


def soft(stack, quality=None):
    """float (N, H, W) as masks that are instances."""
    matrix = sparse.csr_array(stack.reshape(len(stack), stack[0].size if len(stack) else 4).astype(np.float32))
    quality = np.ones(len(stack), np.float32) if quality is None else np.asarray(quality, np.float32)
    return Masks(matrix, stack.shape[1:], quality, instances=True)


def scores(rows, vocabulary=VOCABULARY):
    return ClassScores(np.array(rows, np.float32).reshape(-1, len(vocabulary)), vocabulary.names)


@pytest.mark.parametrize("most", [5, 30, 1000])
def test_they_are_those_of_the_published_inference(most):
    torch.manual_seed(most)
    logits, maps = torch.randn(20, 4), 3 * torch.randn(20, 11, 13)
    things = torch.tensor([False, True, True])
    expected = reference(logits, maps, things, most)
    masks = soft(maps.sigmoid().numpy())
    found = mask_instances(masks, scores(logits.softmax(-1)[:, :-1].numpy()), VOCABULARY, most=most)
    np.testing.assert_allclose([one.score for one in found], expected.scores, rtol=1e-4)
    assert [VOCABULARY.names.index(one.label) for one in found] == expected.labels.tolist()
    assert np.array_equal(np.stack([one.mask for one in found]), expected.masks.numpy())


def test_the_score_is_probability_times_coverage_times_the_score_of_the_mask():
    stack = np.zeros((1, 2, 4), np.float32)
    stack[0, 0] = (1.0, 0.5, 0.4, 0.0)  # inside are the first two
    (only,) = mask_instances(soft(stack, [0.5]), scores([[0.1, 0.8, 0]]), VOCABULARY)
    assert (only.label, only.area) == ("ball", 2) and only.score == pytest.approx(0.8 * 0.75 * 0.5)
    assert only.mask.tolist() == [[True, True, False, False], [False] * 4]


def test_pairs_are_chosen_before_stuff_is_dropped():
    masks = soft(np.ones((2, 3, 3), np.float32))
    given = scores([[0.9, 0.05, 0.05], [0.6, 0.3, 0.1]])
    assert mask_instances(masks, given, VOCABULARY, most=2) == ()
    assert [one.label for one in mask_instances(masks, given, VOCABULARY, most=3)] == ["ball"]


def test_no_more_than_a_hundred_and_none_without_pixels_or_probability():
    stack = np.ones((150, 2, 2), np.float32)
    stack[::3] = 0.3  # covers no pixel by half
    rows = np.tile([0, 0.5, 0], (150, 1))
    assert len(mask_instances(soft(stack), scores(rows), VOCABULARY)) == 66  # of the first hundred masks
    assert mask_instances(soft(stack), scores(rows * 0), VOCABULARY) == ()
    assert mask_instances(soft(stack[:0]), scores([]), VOCABULARY) == ()


def test_things_of_a_panoptic_map_where_masks_are_regions():
    dense = np.zeros((3, 4, 9), bool)
    dense[0, :, :3], dense[1, :, 3:6], dense[2, :, 6:] = True, True, True
    masks, given = Masks.from_dense(dense), scores([[0, 0.6, 0], [1, 0, 0], [0, 0.9, 0]])
    maps = paint(np.zeros((*masks.size, 3), np.uint8), masks, given, VOCABULARY, PaintingConfig(min_area=1))
    panoptic = (maps.panoptic, maps.segments)
    found = find_instances(masks, given, VOCABULARY, panoptic)
    assert [(one.label, one.area) for one in found] == [("ball", 12), ("ball", 12)]
    assert np.array_equal(found[0].mask | found[1].mask, dense[0] | dense[2])
    assert len(segment_instances(*panoptic, most=1)) == 1
    assert find_instances(soft(dense.astype(np.float32)), given, VOCABULARY, panoptic)[0].score == pytest.approx(0.9)


def test_an_instance_speaks_coco():
    one = Instance("ball", 0.5, 1, (1, 2), segment_instances(np.array([[1, 0]], np.int32), _segments())[0].counts)
    assert one.rle["size"] == [1, 2] and one.mask.tolist() == [[True, False]]


def _segments():
    from knnseg.method.painting import Segment

    return (Segment(1, "ball", True, 0.5, 1, (0, 0, 1, 1)),)
