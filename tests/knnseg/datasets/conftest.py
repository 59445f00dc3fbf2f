"""Small trees in the published layouts, written from what they are to say, and what reading them must give."""

import json

import numpy as np
import pytest
from PIL import Image


class Trees:
    SIZES = ((7, 9), (12, 5), (8, 8))  # odd, portrait, square

    @staticmethod
    def photo(path, size, seed=0):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(path)

    @staticmethod
    def gray(path, values, dtype=np.uint8):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(values, dtype)).save(path)

    @staticmethod
    def palette(path, values):
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(np.asarray(values, np.uint8)).convert("P")
        image.putpalette([*range(256)] * 3)
        image.putdata(np.asarray(values, np.uint8).reshape(-1).tolist())
        image.save(path)

    @staticmethod
    def rgb(path, r, g, b):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.stack([r, g, b], -1).astype(np.uint8)).save(path)

    @staticmethod
    def coco_png(path, numbers):
        numbers = np.asarray(numbers)
        Trees.rgb(path, numbers % 256, numbers // 256 % 256, numbers // 65536)

    @staticmethod
    def dump(path, data):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data), encoding="utf-8")

    @staticmethod
    def areas(values, seed, size):
        """A map of ``size`` where each of the values occurs."""
        shuffled = np.resize(np.asarray(values), size)
        return np.random.default_rng(seed).permutation(shuffled.reshape(-1)).reshape(size)

    @staticmethod
    def names_of(example):
        """The label of each pixel by its segment, "" without one, as an object array."""
        labels = np.full(example.segments.shape, "", object)
        for segment in example.info:
            labels[example.segments == segment.id] = segment.label
        return labels

    @staticmethod
    def classes_of(example, vocabulary):
        """The name of each pixel's class, "" without one."""
        return np.array([*vocabulary.names, ""], object)[example.semantic(vocabulary.names)]


@pytest.fixture
def trees():
    return Trees
