"""From pixels and words to maps against the original: image tower, text tower, padding, a batch of two, valid masks.

The original (bytedance/fc-clip at commit 2b0bbe2 on detectron2 at 02b5c4e2, open_clip 2.20.0) was run by
``scripts/fcclip_reference.py`` on the same generated weights; only its results are kept.
"""

import numpy as np
import pytest
import torch

from knnseg.models.fcclip import FCCLIP
from knnseg.models.fcclip.checkpoint import load_state
from knnseg.models.fcclip.inference import crop_resize, semantic
from knnseg.models.fcclip.pooling import resize
from knnseg.models.fcclip.preprocessing import pad


@pytest.fixture(scope="module")
def batch(small, recipe):
    return pad([torch.from_numpy(image) for image in recipe.images()], small.config, recipe.ORIGINALS)


@pytest.fixture(scope="module")
def pyramid(small, batch):
    return small.encode(batch.pixels)


@pytest.fixture(scope="module")
def proposals(small, pyramid):
    return small.propose(pyramid)


@pytest.fixture(scope="module")
def classifier(small, recipe):
    return small.classifier(recipe.CLASSES["test"], recipe.CLASSES["train"])


@pytest.fixture(scope="module")
def scores(small, proposals, classifier):
    return small.classify(proposals, classifier)


@pytest.fixture(scope="module")
def predictions(small, batch, proposals, scores):
    return small.predictions(batch, proposals, scores)


@pytest.fixture(scope="module")
def things(recipe):
    return torch.tensor([i in recipe.CLASSES["things"] for i in range(len(recipe.CLASSES["test"]))])


def test_sizes_that_are_no_multiple_of_32_are_padded_together(batch, recipe):
    assert batch.pixels.shape == (2, 3, 96, 128)
    assert batch.sizes == tuple(recipe.IMAGES)
    assert not batch.pixels[0, :, 70:].any() and not batch.pixels[1, :, :, 120:].any()


def test_image_tower(pyramid, reference, close):
    close(pyramid.res4, reference["all/feature/res4"])
    close(pyramid.res5, reference["all/feature/res5"])
    assert pyramid.dense is pyramid.res5  # as the original's, where the norm is in the head


def test_text_tower_with_synonyms_and_templates(classifier, reference, close):
    close(classifier.text, reference["all/text"])
    assert classifier.rows.tolist()[:3] == [[0, 1, 2], [3, 4, 4], [5, 5, 5]]
    assert classifier.seen.tolist() == [True, True, False, True, False, False, False]


def test_pixel_decoder(small, pyramid, reference, close):
    close(small.pixel_decoder(pyramid).masks[:, ::4], reference["all/mask_features"])


def test_masks_and_classes(proposals, scores, reference, close):
    close(proposals.masks, reference["all/masks"])
    close(scores.in_vocab, reference["all/in_vocab"], 5e-5)
    close(scores.logits, reference["all/logits"], 5e-5)


def test_only_valid_masks_are_shown_to_clip(small_config, small_state, proposals, classifier, reference, close):
    """Four of the masks cover no cell of the grid; without the option they weigh like any other."""
    import dataclasses

    model = FCCLIP(dataclasses.replace(small_config, valid_masks_only=True))
    load_state(model, small_state)
    ours = model.classify(proposals, classifier).logits
    close(ours, reference["valid/logits"], 5e-5)
    assert (~proposals.valid).sum() == 4
    assert np.abs(reference["valid/logits"] - reference["all/logits"]).max() > 0.1


@pytest.mark.parametrize("i", [0, 1])
def test_semantic_maps(predictions, reference, recipe, close, i):
    full = predictions[i].semantic()
    assert tuple(full.shape[1:]) == recipe.ORIGINALS[i]
    close(full[:, :: recipe.STRIDE, :: recipe.STRIDE], reference[f"all/semantic{i}"], 5e-5)


@pytest.mark.parametrize("i", [0, 1])
def test_semantic_maps_resized_after_summing(proposals, scores, batch, reference, recipe, close, i):
    """What the original does for data sets without instances; it takes less memory, and differs a little."""
    masks = resize(proposals.masks[i : i + 1], (96, 128))[0]
    ours = crop_resize(semantic(scores.logits[i], masks), batch.sizes[i], batch.originals[i])
    close(ours[:, :: recipe.STRIDE, :: recipe.STRIDE], reference[f"map/semantic{i}"], 5e-5)
    assert np.abs(reference[f"map/semantic{i}"] - reference[f"all/semantic{i}"]).max() > 1e-3


@pytest.mark.parametrize("i", [0, 1])
def test_panoptic_maps_are_identical(predictions, reference, things, i):
    ours = predictions[i].panoptic(things)
    assert np.array_equal(ours.ids.numpy(), reference[f"all/panoptic{i}"])
    assert [[s.id, int(s.thing), s.label] for s in ours.segments] == reference[f"all/segments{i}"].tolist()


@pytest.mark.parametrize("i", [0, 1])
def test_instances(predictions, reference, things, i):
    ours = predictions[i].instances(things)
    found = torch.stack([ours.labels.float(), ours.scores, ours.masks.sum((1, 2)).float()], 1).numpy()
    theirs = reference[f"all/instances{i}"]
    assert len(found) == len(theirs) < 30  # of thirty pairs those of stuff are dropped
    sort = lambda rows: rows[np.lexsort((rows[:, 1].round(4), rows[:, 2], rows[:, 0]))]
    np.testing.assert_allclose(sort(found), sort(theirs), rtol=1e-4)


def test_an_image_alone_pads_differently_but_the_batch_order_does_not_matter(small, recipe, proposals):
    images = [torch.from_numpy(image) for image in recipe.images()][::-1]
    swapped = small(pad(images, small.config, recipe.ORIGINALS[::-1]).pixels)
    torch.testing.assert_close(swapped.masks.flip(0), proposals.masks, rtol=1e-4, atol=1e-3)
