"""Polygons of masks are the masks again when they are filled."""

import numpy as np
import pytest

from knnseg.datasets.formats.shapes import Polygons
from knnseg.export.polygons import outlines


def filled(found, size):
    return Polygons(tuple(tuple(ring.ravel().tolist()) for ring in found)).draw(size)


def test_straight_edges_come_back_exactly():
    mask = np.zeros((40, 60), bool)
    mask[5:20, 10:40] = mask[25:40, 50:60] = mask[22:25, :5] = True
    found = outlines(mask)
    assert found[0].tolist() == [[10, 5], [40, 5], [40, 20], [10, 20]]
    assert len(found) == 3 and np.array_equal(filled(found, mask.shape), mask)


def test_a_curve_is_off_by_its_edge_only():
    y, x = np.mgrid[:200, :300]
    mask = ((x - 150) ** 2 / 100**2 + (y - 100) ** 2 / 70**2) < 1
    drawn = filled(outlines(mask), mask.shape)
    assert (drawn & mask).sum() / (drawn | mask).sum() > 0.99 and len(outlines(mask)[0]) < 80


def test_holes_are_filled_and_specks_left_out_unless_they_are_all():
    mask = np.zeros((40, 60), bool)
    mask[10:30, 10:30] = True
    whole = mask.copy()
    mask[15:20, 15:20] = False
    mask[0, 0] = True
    assert np.array_equal(filled(outlines(mask), mask.shape), whole)
    mask[:] = False
    mask[3, 4] = True
    assert outlines(mask)[0].tolist() == [[4, 3], [5, 3], [5, 4], [4, 4]]


@pytest.mark.parametrize("full", [True, False])
def test_all_and_nothing(full):
    assert [ring.tolist() for ring in outlines(np.full((3, 4), full))] == [[[0, 0], [4, 0], [4, 3], [0, 3]]] * full
