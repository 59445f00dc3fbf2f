"""Lower precision where it is safe, and torch.compile."""

import pytest
import torch

from knnseg.models.fcclip import FCCLIP
from knnseg.models.fcclip.checkpoint import load_state
from knnseg.models.fcclip.preprocessing import pad


@pytest.fixture(scope="module")
def batch(small, recipe):
    return pad([torch.from_numpy(image) for image in recipe.images()], small.config, recipe.ORIGINALS)


@pytest.fixture(scope="module")
def half(small_config, small_state):
    model = FCCLIP(small_config, "bfloat16")
    load_state(model, small_state)
    return model


def test_the_image_tower_and_the_mask_decoder_run_in_bfloat16_and_all_results_are_float32(half, batch):
    seen = set()
    tower, decoder = (
        half.backbone.clip.visual.trunk.stages[3].downsample[1],
        half.decoder.layers[0].feed_forward.linear1,
    )
    handles = [part.register_forward_hook(lambda _module, _x, out: seen.add(out.dtype)) for part in (tower, decoder)]
    proposals = half(batch.pixels)
    for handle in handles:
        handle.remove()
    assert seen == {torch.bfloat16}
    for tensor in (proposals.masks, proposals.in_vocab, proposals.out_vocab):
        assert tensor.dtype == torch.float32
    assert half.classifier(["cat"]).text.dtype == torch.float32


def test_the_pixel_decoder_stays_in_float32(half, small, batch):
    """Given the same features it gives the same, bit for bit, also inside an autocast of the caller."""
    pyramid = small.encode(batch.pixels)
    expected = small.pixel_decoder(pyramid)
    with torch.autocast("cpu", torch.bfloat16):
        got = half.pixel_decoder(pyramid)
    assert torch.equal(got.masks, expected.masks)
    assert all(torch.equal(a.features, b.features) for a, b in zip(got.levels, expected.levels, strict=True))


def test_bfloat16_is_near_float32(half, small, batch, recipe):
    """Of networks this small and random; the bounds are what eight bits of mantissa leave."""
    classes = recipe.CLASSES
    classifier = small.classifier(classes["test"], classes["train"])
    exact, rough = small(batch.pixels), half(batch.pixels)
    scale = exact.masks.abs().max()
    assert (rough.masks - exact.masks).abs().mean() < 0.005 * scale
    assert ((rough.masks > 0) == (exact.masks > 0)).float().mean() > 0.99
    agree = small.classify(exact, classifier).logits.argmax(-1) == half.classify(rough, classifier).logits.argmax(-1)
    assert agree.float().mean() > 0.8


@pytest.mark.slow
def test_the_whole_network_is_one_graph(small, batch):
    """What torch.compile needs; generating code from it takes minutes, and is no business of this test."""
    exact = small(batch.pixels)
    traced = torch.compile(small, backend="eager", fullgraph=True)(batch.pixels)
    torch.testing.assert_close(traced.masks, exact.masks)
    torch.testing.assert_close(traced.out_vocab, exact.out_vocab)
