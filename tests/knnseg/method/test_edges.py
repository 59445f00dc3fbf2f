"""Maps that come back from a coarser grid to the pixels of an image."""

import numpy as np
import pytest
from PIL import Image

from knnseg.data.masks import nearest
from knnseg.data.reading import within
from knnseg.method.edges import Enlarger


def slanted(height, width):
    """Two grounds of noisy colour on both sides of a slanted edge, bool (H, W) and the picture."""
    y, x = np.mgrid[:height, :width]
    left = x + 0.37 * y < 0.6 * width
    noise = np.random.default_rng(0).integers(-8, 9, (height, width, 3))
    ground = np.where(left[..., None], (60, 120, 60), (170, 160, 150))
    return left, (ground + noise).clip(0, 255).astype(np.uint8)


def test_a_map_follows_the_edges_of_the_picture():
    left, image = slanted(300, 420)
    grid = within(left.shape, 42)
    share = np.asarray(Image.fromarray(left.astype(np.uint8) * 255).resize(grid[::-1], Image.Resampling.BOX))
    cells = np.where(share > 127, 3, 7).astype(np.int32)
    truth = np.where(left, 3, 7)
    blocks, found = nearest(cells, left.shape), Enlarger(image, grid)(cells)
    assert found.dtype == np.int32 and set(np.unique(found)) == {3, 7}
    missed, rough = int((found != truth).sum()), int((blocks != truth).sum())
    assert rough > 500 and missed < rough / 5  # 74 of 1,238 where this was written


@pytest.mark.parametrize("size", [(97, 31), (31, 97), (7, 640), (64, 64)])
def test_labels_come_from_the_nine_cells_around(size):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    grid = within(size, 13)
    cells = rng.integers(-1, 4, grid).astype(np.int32)
    found = Enlarger(image, grid)(cells)
    assert found.shape == size
    rows, columns = ((2 * np.arange(n) + 1) * c // (2 * n) for n, c in zip(size, grid, strict=True))
    padded = np.pad(cells, 1, mode="edge")
    around = [padded[rows + dy][:, columns + dx] for dy in range(3) for dx in range(3)]
    assert np.any([found == one for one in around], axis=0).all()


def test_what_is_even_stays_and_the_size_of_the_pieces_of_work_changes_nothing(monkeypatch):
    image = np.random.default_rng(2).integers(0, 256, (90, 120, 3)).astype(np.uint8)
    even = np.full((9, 12), -1, np.int32)
    assert (Enlarger(image, (9, 12))(even) == -1).all()
    cells = np.random.default_rng(3).integers(0, 3, (9, 12)).astype(np.int32)
    whole = Enlarger(image, (9, 12))(cells)
    monkeypatch.setattr("knnseg.method.edges._TOGETHER", 701)
    assert np.array_equal(Enlarger(image, (9, 12))(cells), whole)


def test_the_formula_pixel_by_pixel(monkeypatch):
    """Joint bilateral upsampling as its paper has it, in a loop."""
    _, image = slanted(40, 56)
    grid, cells = (5, 7), np.random.default_rng(4).integers(0, 3, (5, 7)).astype(np.int32)
    enlarger = Enlarger(image, grid)
    copy, found = (
        np.asarray(Image.fromarray(image).resize((7, 5), Image.Resampling.BICUBIC)).astype(float),
        enlarger(cells),
    )
    for y in range(0, 40, 3):
        for x in range(0, 56, 3):
            v, u = (y + 0.5) * 5 / 40, (x + 0.5) * 7 / 56
            votes = np.zeros(3)
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    i, j = min(max(int(v) + dy, 0), 4), min(max(int(u) + dx, 0), 6)
                    apart = (i + 0.5 - v) ** 2 + (j + 0.5 - u) ** 2
                    unlike = ((copy[i, j] - image[y, x].astype(float)) ** 2).sum()
                    votes[cells[i, j]] += np.exp(-apart / (2 * 0.7**2)) * np.exp(-unlike / (2 * 12.0**2))
            best = np.sort(votes)
            assert best[-1] < 1.0001 * best[-2] or found[y, x] == votes.argmax()
