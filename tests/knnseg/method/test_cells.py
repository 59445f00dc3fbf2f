"""A grid of soft cells: it covers every pixel once, and adding it up interpolates between its answers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from knnseg import ClassScores, Masks
from knnseg.method.cells import with_cells
from knnseg.method.painting import paint_semantic


def quarters(size=(40, 60)):
    return Masks.from_partition(np.indices(size).sum(0) // 30)


@pytest.mark.parametrize("count", [1, 2, 7, 12, 60])
def test_cells_share_every_pixel(count):
    masks = with_cells(quarters(), count)
    cells = masks.matrix[len(quarters()) :]
    np.testing.assert_allclose(cells.sum(axis=0), 1, atol=1e-6)
    assert cells.shape[0] == max(1, round(40 * count / 60)) * count
    assert (masks.areas > 0).all() and masks.scores.tolist() == [1] * len(masks) and not masks.instances
    assert np.array_equal(masks.matrix[: len(quarters())].toarray(), quarters().matrix.toarray())


def test_votes_are_interpolated_as_by_torch():
    rng = np.random.default_rng(0)
    masks = with_cells(quarters().select([]), 12)
    votes = rng.random((8 * 12, 3)).astype(np.float32)
    votes /= votes.sum(axis=1, keepdims=True)
    grid = torch.from_numpy(votes.reshape(8, 12, 3)).permute(2, 0, 1)[None]
    expected = F.interpolate(grid, size=(40, 60), mode="bilinear", align_corners=False)[0].numpy()
    semantic, share = paint_semantic(masks, ClassScores(votes, ("a", "b", "c")))
    np.testing.assert_allclose(share, expected.max(axis=0), atol=1e-5)
    sure = np.diff(np.sort(expected, axis=0)[-2:], axis=0)[0] > 1e-5
    assert np.array_equal(semantic[sure], expected.argmax(axis=0)[sure]) and sure.mean() > 0.99


def test_no_cells_where_none_are_asked_for_or_masks_are_whole_objects():
    masks = quarters()
    assert with_cells(masks, 0) is masks
    whole = Masks.from_dense(masks.dense(), instances=True)
    assert with_cells(whole, 12) is whole
    assert len(with_cells(quarters((3, 2)), 100)) == len(quarters((3, 2))) + 6
