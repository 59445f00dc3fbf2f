"""Region proposals."""

import numpy as np
import pytest

from knnseg import RegionProposer, stages
from knnseg.config import StageConfig
from knnseg.errors import ConfigError


@pytest.mark.parametrize(
    ("scales", "superpixels"), [((100, 400), (150,)), ((30,), ()), ((), (20, 60)), ([50, 100, 200], [10])]
)
def test_each_partition_covers_every_pixel_once(scene, scales, superpixels):
    image = scene(1, ("sky", "sand", "ball", "kettle")).image
    masks = RegionProposer(scales=scales, superpixels=superpixels).propose(image)
    covered = np.asarray(masks.matrix.sum(axis=0)).reshape(-1)
    assert (covered == len(scales) + len(superpixels)).all() and (masks.scores == 1).all() and not masks.instances
    parts = [RegionProposer(scales=[s], superpixels=[]).propose(image) for s in scales]
    parts += [RegionProposer(scales=[], superpixels=[n]).propose(image) for n in superpixels]
    assert len(masks) == sum(map(len, parts))
    assert all((part.matrix.sum(axis=0) == 1).all() for part in parts)


def test_min_area_holds_for_regions(scene):
    masks = RegionProposer(scales=[10], min_area=40, superpixels=[]).propose(scene(2).image)
    assert masks.areas.min() >= 40


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 3), (64, 64)])
def test_small_and_flat_images(size):
    masks = RegionProposer().propose(np.full((*size, 3), 128, np.uint8))
    assert masks.size == size and (masks.matrix.sum(axis=0) == 3).all()


def test_proposals_repeat(scene):
    image = scene(3).image
    one, other = (RegionProposer().propose(image).matrix for _ in range(2))
    assert (one != other).nnz == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": [], "superpixels": []}, "at least one of scales and superpixels"),
        ({"scales": [0]}, "scales above 0"),
        ({"scales": ["big"]}, "scales above 0"),
        ({"scales": 100}, "scales as a list"),
        ({"scales": "100"}, "scales as a list"),
        ({"superpixels": [0]}, "superpixels whole and at least 1"),
        ({"superpixels": [1.5]}, "superpixels whole"),
        ({"superpixels": 150}, "superpixels as a list"),
        ({"sigma": -1}, "sigma a number"),
        ({"min_area": 0}, "min_area a number"),
        ({"compactness": 0}, "compactness a number"),
        ({"compactness": float("nan")}, "compactness a number"),
        ({"superpixles": [3]}, "Did you mean 'superpixels'"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        stages.make("masks", StageConfig("regions", options))
