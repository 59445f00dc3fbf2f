"""A grid of cells beside regions: every pixel lies in one, and only regions that were proposed get them."""

from dataclasses import replace

import numpy as np
import pytest

from knnseg import ClassScores, Masks
from knnseg.method.cells import with_cells
from knnseg.method.painting import paint_semantic


def quarters(size=(40, 60)):
    return Masks.from_partition(np.indices(size).sum(0) // 30)


@pytest.mark.parametrize("count", [1, 2, 7, 12, 60])
def test_cells_are_one_more_partition(count):
    masks = with_cells(quarters(), count)
    cells = masks.matrix[len(quarters()) :]
    assert (cells.sum(axis=0) == 1).all() and cells.shape[0] == max(1, round(40 * count / 60)) * count
    sides = [np.ptp(np.divmod(row.indices, 60), axis=1) + 1 for row in (cells[[i]] for i in range(cells.shape[0]))]
    assert max(map(max, sides)) <= 1.5 * 60 / count + 1, "they are about square"
    assert masks.scores.tolist() == [1] * len(masks) and not masks.instances
    assert np.array_equal(masks.matrix[: len(quarters())].toarray(), quarters().matrix.toarray())


def test_cells_tell_apart_what_one_region_mixes():
    halves = np.repeat([[0, 1]], 20, 0).repeat(30, 1)
    masks = with_cells(Masks.from_partition(np.zeros((20, 60), np.int32)), 6)
    rows = [[0.6, 0.4], *np.eye(2)[halves[5::10, 5::10].reshape(-1)]]
    semantic, _ = paint_semantic(masks, ClassScores(np.array(rows, np.float32), ("left", "right")))
    assert np.array_equal(semantic, halves)


def test_cells_lie_on_the_grid_of_the_regions():
    coarse = Masks.from_partition(np.arange(12).reshape(3, 4), size=(30, 40))
    found = with_cells(coarse, 2)
    assert (found.grid, found.size) == ((3, 4), (30, 40)) and found.areas[12:].sum() == 1200


def test_a_segmenter_asks_about_cells_beside_its_own_regions_only(make_segmenter, scene):
    image = scene(3).image
    plain, fine = make_segmenter(), make_segmenter()
    fine.config = replace(fine.config, painting=replace(fine.config.painting, cells=8))
    names, given = ["sky", "grass", "ball"], Masks.from_partition(scene(3).segments)
    assert len(fine.predict(image, names).masks) == len(plain.predict(image, names).masks) + 8 * 6
    assert len(fine.predict(image, names, masks=given).masks) == len(given)


def test_no_cells_where_none_are_asked_for_or_masks_are_whole_objects():
    masks = quarters()
    assert with_cells(masks, 0) is masks
    whole = Masks.from_dense(masks.dense(), instances=True)
    assert with_cells(whole, 12) is whole
    assert len(with_cells(quarters((3, 2)), 100)) == len(quarters((3, 2))) + 6
