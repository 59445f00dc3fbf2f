"""Photographs of many pixels: neither the regions nor the work depend on how many a camera has."""

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from knnseg import ClassScores, Masks, Vocabulary
from knnseg.config import PaintingConfig, StageConfig
from knnseg.data.features import Features
from knnseg.data.image import Image as Picture
from knnseg.data.masks import nearest
from knnseg.errors import ConfigError, MaskError
from knnseg.method.instances import mask_instances
from knnseg.method.painting import paint
from knnseg.method.pooling import pool
from knnseg.models.regions import RegionProposer
from knnseg.stages import registry as stages

NAMES = ("sky", "sand", "ball", "kettle")


def enlarged(image, factor, resample=Image.Resampling.BICUBIC):
    height, width = image.shape[:2]
    return np.asarray(Image.fromarray(image).resize((width * factor, height * factor), resample))


@pytest.fixture
def photo(scene):
    return enlarged(scene(1, NAMES).image, 20)  # 960×1280


@pytest.fixture
def segmenter(database, make_segmenter, scene):
    database.add([scene(seed) for seed in range(4)])
    return make_segmenter(database)


def coarse(masks, size):
    return Masks(masks.matrix, size, masks.scores, masks.instances, masks.size)


def test_regions_are_cut_on_a_copy_of_bounded_size(photo):
    masks = RegionProposer(long_side=160).propose([Picture(photo)])[0]
    assert masks.size == (960, 1280) and masks.grid == (120, 160)
    assert masks.areas.sum() == pytest.approx(5 * 960 * 1280)
    whole = stages.make("masks", StageConfig("regions", {"long_side": 160}), device="cpu").propose([Picture(photo)])[0]
    assert (whole.matrix != masks.matrix).nnz == 0
    assert len(RegionProposer().propose([Picture(enlarged(photo, 2))])[0]) < 2 * len(
        RegionProposer().propose([Picture(photo)])[0]
    )


def test_an_image_within_the_bound_is_cut_as_it_is(scene):
    image = scene(2).image
    masks, larger = (
        RegionProposer().propose([Picture(image)])[0],
        RegionProposer(long_side=5000).propose([Picture(image)])[0],
    )
    assert masks.grid == masks.size and (masks.matrix != larger.matrix).nnz == 0


@pytest.mark.parametrize("side", [0, 15, 320.0, True, "320"])
def test_the_bound_is_a_whole_number(side):
    with pytest.raises(ConfigError, match="long_side: expected a whole number of at least 16"):
        RegionProposer(long_side=side)


def test_masks_on_a_grid_are_those_masks_over_the_image():
    rng = np.random.default_rng(0)
    small = Masks.from_dense(rng.random((4, 6, 8)) < 0.4, instances=True)
    masks = coarse(small, (60, 40))
    dense = np.stack([nearest(mask, (60, 40)) for mask in small.dense()])
    assert np.array_equal(masks.dense(), dense) and np.array_equal(masks[2], dense[2])
    np.testing.assert_allclose(masks.areas, dense.sum((1, 2)), rtol=1e-6)
    assert masks.to_rle() == Masks.from_dense(dense).to_rle()
    region = rng.random((60, 40)) < 0.3
    np.testing.assert_allclose(masks.inside(region), (dense & region).sum((1, 2)), rtol=1e-5)
    assert masks.select([1, 3]).grid == (6, 8) and Masks.concatenate([masks, masks]).grid == (6, 8)
    scores = ClassScores(np.eye(4, dtype=np.float32), NAMES)
    objects = mask_instances(masks, scores, Vocabulary(NAMES, frozenset(NAMES)))
    assert {o.label: o.area for o in objects} == {n: int(d.sum()) for n, d in zip(NAMES, dense, strict=True)}


def test_a_grid_that_does_not_divide_the_image():
    fine = Masks.from_dense(np.random.default_rng(1).random((3, 13, 29)) < 0.5)
    masks = fine.on_grid((5, 11))
    assert fine.on_grid((13, 29)) is fine and masks.grid == (5, 11) and masks.size == (13, 29)
    np.testing.assert_allclose(masks.areas, fine.areas, rtol=1e-5)
    assert masks.matrix.data.max() <= 1 + 1e-6
    everything = np.ones((13, 29), bool)
    np.testing.assert_allclose(masks.inside(everything), fine.areas, rtol=1e-5)


@pytest.mark.parametrize(("size", "grid", "cells"), [((4, 4), (5, 4), 20), ((4, 4), (2, 2), 16), ((4, 4), (0, 0), 15)])
def test_a_grid_must_fit(size, grid, cells):
    from scipy import sparse

    with pytest.raises(MaskError, match="expected"):
        Masks(sparse.csr_array((1, cells), dtype=np.float32), size, np.ones(1, np.float32), grid=grid)
    with pytest.raises(MaskError, match="one grid"):
        one = Masks.from_dense(np.ones((1, 4, 4), bool))
        Masks.concatenate([one, one.on_grid((2, 2))])


def test_pooling_on_a_grid_is_pooling_at_its_centres():
    rng = np.random.default_rng(2)
    features = Features(rng.standard_normal((5, 9, 12), np.float32), (180, 240))
    small = Masks.from_dense(rng.random((6, 45, 60)) < 0.5)
    found = pool(features, coarse(small, (180, 240)))
    expected = pool(Features(features.data, (45, 60)), small)
    np.testing.assert_allclose(found.vectors, expected.vectors, atol=1e-6)
    np.testing.assert_allclose(found.coverage, expected.coverage, rtol=1e-5)
    fine = pool(features, Masks.from_dense(coarse(small, (180, 240)).dense()))
    np.testing.assert_allclose((found.vectors * fine.vectors).sum(1), 1, atol=1e-3)


def test_a_few_pixels_of_a_large_image_pool_the_same_and_cost_little(monkeypatch):
    rng = np.random.default_rng(3)
    size = (3000, 4000)
    features = Features(rng.standard_normal((8, 20, 27), np.float32), size)
    places = rng.choice(size[0] * size[1], (5, 300), replace=False)
    masks = Masks.from_pixels(np.repeat(np.arange(5), 300), places.reshape(-1), 5, size)
    tracemalloc.start()
    found = pool(features, masks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6  # the weights of all twelve million pixels are 576 MB
    crop = Features(features.data, (300, 400))
    near = Masks.from_pixels(*np.nonzero(np.eye(5, 300 * 400, 77)), 5, (300, 400))
    monkeypatch.setattr("knnseg.method.pooling._KEPT", 0)
    listed = pool(crop, near).vectors
    monkeypatch.setattr("knnseg.method.pooling._KEPT", 1 << 19)
    assert np.array_equal(listed, pool(crop, near).vectors) and np.isfinite(found.vectors).all()


@pytest.mark.parametrize("instances", [False, True])
def test_both_maps_of_a_large_image_agree(photo, instances):
    masks = RegionProposer(scales=[100], superpixels=[], long_side=160).propose([Picture(photo)])[0]
    masks = Masks(masks.matrix, masks.size, masks.scores, instances, masks.grid)
    scores = ClassScores(np.random.default_rng(5).dirichlet(np.ones(4), len(masks)).astype(np.float32), NAMES)
    maps = paint(photo, masks, scores, Vocabulary(NAMES, frozenset({"ball", "kettle"})), PaintingConfig(min_area=1))
    assert maps.semantic.shape == maps.panoptic.shape == (960, 1280)
    for segment in maps.segments:
        inside = maps.panoptic == segment.id
        assert (maps.semantic[inside] == NAMES.index(segment.label)).mean() > (0.95 if instances else 0.9999)
        assert segment.area == inside.sum()
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        assert segment.box == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


def test_a_large_image_is_explained_and_measured(segmenter, scene):
    image = enlarged(scene(7).image, 10)
    result = segmenter.predict(image, ["sky", "grass", "ball"])
    assert result.masks.grid == (240, 320) and result.semantic.shape == (480, 640)
    why = segmenter.explain(result, 1)
    assert sum(why.final.values()) == pytest.approx(1, abs=1e-3) and why.votes


def test_labels_hardly_depend_on_the_size(segmenter, scene):
    image = enlarged(scene(8).image, 5)  # 240×320, the bound
    one, other = (segmenter.predict(enlarged(image, f), ["sky", "grass", "ball"]).semantic for f in (1, 4))
    assert (nearest(one, other.shape) == other).mean() > 0.95


@pytest.mark.slow
def test_a_photograph_of_a_phone_takes_bounded_memory(segmenter, scene):
    image = enlarged(scene(9).image, 63)  # 3024×4032
    segmenter.predict(scene(9).image, ["sky", "grass", "ball"])
    tracemalloc.start()
    result = segmenter.predict(image, ["sky", "grass", "ball"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.panoptic.shape == (3024, 4032) and len(result.masks) < 2000
    assert peak < 0.7e9  # the maps and the image are 0.13 GB; 4.9 GB before
