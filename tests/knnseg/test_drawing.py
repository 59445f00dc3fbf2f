"""Colours that can be told apart, whichever classes a picture has."""

import numpy as np
import pytest
from skimage.color import rgb2lab

from knnseg.drawing import class_colours, colours


@pytest.mark.parametrize(("count", "apart"), [(12, 35), (24, 25), (60, 15)])
def test_any_two_classes_differ_to_the_eye(count, apart):
    """In CIELAB a difference of 10 is seen at a glance; patches of a picture need more."""
    lab = rgb2lab(class_colours([*map(str, range(count)), "unknown"]) / 255)
    distances = np.linalg.norm(lab[:, None] - lab, axis=2)
    assert distances[np.triu_indices(count + 1, 1)].min() > apart


def test_a_class_keeps_its_colour_where_others_are_added():
    assert (colours(2000)[:5] == colours(5)).all() and colours(0).shape == (0, 3)
    assert len(np.unique(colours(847), axis=0)) == 847  # the most classes that a data set of ours has
