"""Positions, deformable attention, pooling, class logits, the ensemble, preprocessing: each by its definition."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from knnseg.models.fcclip import FcClipConfig
from knnseg.models.fcclip.classification import geometric_ensemble, with_void
from knnseg.models.fcclip.pixel_decoder import DeformableAttention, cell_centres, sine_positions
from knnseg.models.fcclip.pooling import class_logits, pool_masks
from knnseg.models.fcclip.preprocessing import prepare, shortest_edge


def test_positions_by_the_formula():
    place = sine_positions(3, 5, 8, torch.device("cpu"))
    assert place.shape == (1, 8, 3, 5)
    for i in range(4):
        wave = math.sin if i % 2 == 0 else math.cos
        frequency = 10000 ** (2 * (i // 2) / 4)
        assert place[0, i, 1, 4].item() == pytest.approx(wave(2 / 3 * 2 * math.pi / frequency), abs=1e-5)  # y: 2nd of 3
        assert place[0, 4 + i, 1, 3].item() == pytest.approx(
            wave(4 / 5 * 2 * math.pi / frequency), abs=1e-5
        )  # x: 4th of 5


def sampled(plane, x, y):
    """Bilinear value of (h, w, d) at pixel (x, y), zeros outside."""
    height, width, _ = plane.shape
    total = torch.zeros(plane.shape[2])
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < height and 0 <= column < width:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * plane[row, column]
    return total


def test_deformable_attention_point_by_point():
    torch.manual_seed(0)
    sizes, heads, levels, points, width = [(2, 3), (4, 5)], 2, 2, 3, 8
    layer = DeformableAttention(width, heads, levels, points).requires_grad_(False)
    layer.sampling_offsets.bias.normal_(0, 1.5)
    queries, memory = torch.randn(2, 2, 26, width)
    got = layer(queries, memory, cell_centres(sizes, torch.device("cpu")), sizes)
    batch, place = 1, 9  # the fourth cell of the second level: row 0, column 3
    offsets = layer.sampling_offsets(queries)[batch, place].view(heads, levels, points, 2)
    weights = layer.attention_weights(queries)[batch, place].view(heads, -1).softmax(-1).view(heads, levels, points)
    planes = layer.value_proj(memory)[batch].view(26, heads, -1).split([6, 20])
    expected = torch.zeros(heads, width // heads)
    for head in range(heads):
        for level, (h, w) in enumerate(sizes):
            plane = planes[level][:, head].view(h, w, -1)
            for point in range(points):
                dx, dy = offsets[head, level, point].tolist()
                x, y = 3.5 / 5 * w + dx - 0.5, 0.5 / 4 * h + dy - 0.5
                expected[head] += weights[head, level, point] * sampled(plane, x, y)
    torch.testing.assert_close(got[batch, place], layer.output_proj(expected.flatten()), rtol=1e-4, atol=1e-5)


def test_pooling_is_the_mean_inside_and_zero_for_an_empty_mask():
    features = torch.arange(24.0).view(1, 2, 3, 4)
    masks = torch.full((1, 2, 3, 4), -1.0)
    masks[0, 0, 1, :2] = 0.1
    masks[0, 0, 0, 0] = 0.0  # on the edge is outside
    assert torch.equal(pool_masks(features, masks), torch.tensor([[[4.5, 16.5], [0.0, 0.0]]]))


def test_the_best_synonym_counts_and_the_scale_is_held_at_100():
    text = torch.eye(3)
    rows = torch.tensor([[0, 1], [2, 2]])
    x = torch.tensor([[[3.0, 0.0, 4.0]]])  # cosines 0.6, 0, 0.8
    torch.testing.assert_close(class_logits(x, text, rows, torch.tensor(0.0)), torch.tensor([[[0.6, 0.8]]]))
    torch.testing.assert_close(class_logits(x, text, rows, torch.tensor(9.0)), torch.tensor([[[60.0, 80.0]]]))


def test_the_ensemble_is_a_geometric_mean():
    inside, outside = torch.randn(2, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    weight = torch.tensor([0.4, 0.8, 0.4, 0.8])
    expected = inside.softmax(-1) ** (1 - weight) * outside.softmax(-1) ** weight
    torch.testing.assert_close(geometric_ensemble(inside, outside, weight).exp(), expected)


def test_probabilities_too_small_for_float32_stay_numbers():
    """The power of a probability that underflows is 0, and its logarithm no number to go on with."""
    sharp = torch.tensor([[[0.0, 200.0, 150.0]]])
    mixed = geometric_ensemble(sharp, sharp, torch.tensor([0.4, 0.8, 0.8]))
    assert mixed.isfinite().all()
    assert with_void(mixed, torch.tensor([[[0.25]]])).exp().sum().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),
        ((640, 480), (1067, 800)),
        ((400, 1000), (533, 1333)),
        ((500, 500), (800, 800)),
        ((2000, 1500), (1067, 800)),
    ],
)
def test_shortest_edge_and_longest(size, expected):
    assert shortest_edge(size, 800, 1333) == expected


def test_preparing_a_batch():
    config = FcClipConfig(short_side=40, long_side=60)
    stream = np.random.default_rng(0)
    images = [stream.integers(0, 256, size, np.uint8) for size in ((80, 100, 3), (30, 90, 3))]
    batch = prepare(images, config, torch.device("cpu"))
    assert batch.pixels.shape == (2, 3, 64, 64)
    assert batch.sizes == ((40, 50), (20, 60)) and batch.originals == ((80, 100), (30, 90))
    resized = np.asarray(Image.fromarray(images[0]).resize((50, 40), Image.Resampling.BILINEAR), np.float32)
    expected = (resized - np.float32(config.mean)) / np.float32(config.std)
    np.testing.assert_allclose(batch.pixels[0, :, :40, :50].permute(1, 2, 0), expected, rtol=1e-6, atol=1e-6)
    assert not batch.pixels[0, :, 40:].any() and not batch.pixels[1, :, :, 60:].any()
