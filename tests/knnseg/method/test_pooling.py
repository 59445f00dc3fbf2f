import numpy as np
import pytest
from scipy import sparse

from knnseg.data.features import Features
from knnseg.data.masks import Masks
from knnseg.errors import MaskError
from knnseg.method import pooling as embeddings
from knnseg.method.pooling import pool


@pytest.fixture(params=[0, 10**9], ids=["dense", "sparse"])
def way(request, monkeypatch):
    """Which way masks go, whatever their size."""
    monkeypatch.setattr(embeddings, "_MANY", request.param)
    monkeypatch.setattr(embeddings, "_FULL", 0.0)


def brute_force(features, mask):
    """Equation 1, pixel by pixel."""
    (height, width), (tall, wide) = features.grid, features.extent
    total = np.zeros(features.dim)
    for y, x in np.argwhere(mask):
        v = np.clip((y + 0.5) * height / tall - 0.5, 0, height - 1)
        u = np.clip((x + 0.5) * width / wide - 0.5, 0, width - 1)
        i, j = min(int(v), max(height - 2, 0)), min(int(u), max(width - 2, 0))
        a, b = v - i, u - j
        i2, j2 = min(i + 1, height - 1), min(j + 1, width - 1)
        grid = features.data
        total += (1 - a) * ((1 - b) * grid[:, i, j] + b * grid[:, i, j2]) + a * (
            (1 - b) * grid[:, i2, j] + b * grid[:, i2, j2]
        )
    return total / np.linalg.norm(total)


@pytest.mark.parametrize(
    ("size", "grid", "extent"),
    [
        ((24, 32), (3, 4), (0.0, 0.0)),
        ((21, 30), (3, 4), (24.0, 32.0)),
        ((10, 7), (20, 14), (0.0, 0.0)),
        ((9, 9), (1, 1), (0.0, 0.0)),
    ],
)
def test_pooling_is_equation_1(size, grid, extent, way):
    rng = np.random.default_rng(0)
    features = Features(rng.standard_normal((5, *grid), np.float32), size, extent)
    masks = rng.random((6, *size)) < 0.3
    masks[0] = False
    masks[0, size[0] // 2, size[1] // 3] = True  # a single pixel, far smaller than a cell
    masks[1] = False
    masks[1, 2:5] = True  # whole rows of pixels
    pooled = pool(features, Masks.from_dense(masks))
    for vector, mask in zip(pooled.vectors, masks, strict=True):
        np.testing.assert_allclose(vector, brute_force(features, mask), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(pooled.vectors, axis=1), 1, atol=1e-6)


def test_soft_masks_weigh_pixels(way):
    features = Features(np.array([[[1.0, 0.0]], [[0.0, 1.0]]], np.float32), (1, 8))
    soft = np.zeros((1, 1, 8), np.float32)
    soft[0, 0, 0], soft[0, 0, 7] = 1.0, 0.5
    np.testing.assert_allclose(pool(features, Masks.from_dense(soft)).vectors[0], np.array([2, 1]) / 5**0.5, atol=1e-6)


def test_coverage_counts_cells():
    features = Features(np.ones((2, 4, 4), np.float32), (16, 16))
    masks = np.zeros((2, 16, 16), bool)
    masks[0, :8, :4], masks[1, 0, 0] = True, True
    np.testing.assert_allclose(pool(features, Masks.from_dense(masks)).coverage, [2, 1 / 16])


def test_empty_masks_and_featureless_ground_pool_to_zero(way):
    masks = np.zeros((2, 8, 8), bool)
    masks[1, 2:4] = True
    assert not pool(Features(np.ones((2, 2, 2), np.float32), (8, 8)), Masks.from_dense(masks)).vectors[0].any()
    assert not pool(Features(np.zeros((2, 2, 2), np.float32), (8, 8)), Masks.from_dense(masks)).vectors.any()


def test_masks_of_another_size_are_refused():
    with pytest.raises(MaskError, match=r"expected \(8, 8\).*got \(4, 4\)"):
        pool(Features(np.ones((2, 2, 2), np.float32), (8, 8)), Masks.from_dense(np.ones((1, 4, 4), bool)))


def test_one_mask_pools_the_same_alone_and_among_others():
    rng = np.random.default_rng(1)
    features = Features(rng.standard_normal((7, 6, 8), np.float32), (96, 64))
    masks = rng.random((40, 96, 64)) < np.resize([0.02, 0.1, 0.3, 0.9], 40)[:, None, None]  # few pixels, and many
    assert (masks.sum((1, 2)) >= embeddings._MANY).tolist() == [False, False, False, True] * 10  # they go both ways
    together = pool(features, Masks.from_dense(masks)).vectors
    for i in (0, 1, 2, 3, 17, 39):
        assert np.array_equal(pool(features, Masks.from_dense(masks[i : i + 1])).vectors[0], together[i])


def test_pixels_may_come_twice_and_in_any_order(way):
    """As a caller may make them."""
    features = Features(np.random.default_rng(3).standard_normal((5, 3, 4), np.float32), (12, 16))
    pixels = np.array([40, 7, 100, 7, 3, 180])
    given = sparse.csr_array((np.full(6, 0.25, np.float32), pixels, [0, 6]), shape=(1, 192))
    plain = np.zeros((1, 12, 16), np.float32)
    np.add.at(plain.reshape(-1), pixels, 0.25)
    expected = pool(features, Masks.from_dense(plain)).vectors
    found = pool(features, Masks(given, (12, 16), np.ones(1, np.float32))).vectors
    np.testing.assert_allclose(found, expected, atol=1e-6)
