"""Every stage against the numbers of the original implementation, for one recorded case.

Recorded from fixed random feature maps and a random text matrix with bytedance/fc-clip at commit 2b0bbe2, float32, on a CPU.
Each stage is fed from ours, not from the record, so that errors would add up. Tolerances are shares of the largest value.
"""

import numpy as np
import pytest
import torch

from knnseg.models.fcclip.inference import instances, panoptic
from knnseg.models.fcclip.outputs import Pyramid
from knnseg.models.fcclip.pooling import resize
from knnseg.models.fcclip.preprocessing import pad
from knnseg.models.fcclip.text import TextClassifier, class_rows, is_seen

SIZE = (64, 96)


@pytest.fixture(scope="module")
def of(stages):
    return lambda name: torch.from_numpy(stages[name])


@pytest.fixture(scope="module")
def pyramid(of):
    return Pyramid(*(of(f"in/feat_{name}") for name in ("res2", "res3", "res4", "res5", "clip_vis_dense")))


@pytest.fixture(scope="module")
def pixels(recorded, pyramid):
    return recorded.pixel_decoder(pyramid)


@pytest.fixture(scope="module")
def proposals(recorded, pyramid):
    return recorded.propose(pyramid)


@pytest.fixture(scope="module")
def classifier(of, settings):
    rows = class_rows(settings["num_templates"])
    seen = torch.tensor(is_seen(settings["test_classes"], settings["train_classes"]))
    return TextClassifier(of("in/text_classifier"), rows, seen)


@pytest.fixture(scope="module")
def scores(recorded, proposals, classifier):
    return recorded.classify(proposals, classifier)


@pytest.fixture(scope="module")
def things(settings):
    flags = torch.zeros(len(settings["test_classes"]), dtype=torch.bool)
    flags[settings["thing_contiguous_ids"]] = True
    return flags


def test_the_normalised_image(recorded, of):
    batch = pad([of("in/image0")], recorded.config, [SIZE])
    assert torch.equal(batch.pixels, of("out/img/padded_normalised"))


@pytest.mark.parametrize("level", range(3))
def test_positions_and_levels_from_coarse_to_fine(pixels, of, close, level):
    assert torch.equal(pixels.levels[level].positions, of(f"out/pd/pos{level}"))
    close(pixels.levels[level].features, of(f"out/pd/multi_scale{level}"))


def test_mask_features(pixels, of, close):
    close(pixels.masks, of("out/pd/mask_features"))


@pytest.fixture(scope="module")
def watched(recorded, pixels):
    """The inputs and outputs of every part of every layer of the mask decoder."""
    seen, handles = {}, []
    for i, layer in enumerate(recorded.decoder.layers):
        for name in ("cross", "among", "feed_forward"):
            part = getattr(layer, name)
            handles.append(part.register_forward_hook(lambda m, x, out, key=(i, name): seen.update({key: (x, out)})))
    recorded.decoder(pixels)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("layer", range(3))
def test_decoder_layers(watched, of, close, layer):
    for ours, theirs in (("cross", "cross"), ("among", "self"), ("feed_forward", "ffn")):
        close(watched[layer, ours][1].transpose(0, 1), of(f"out/dec/l{layer}_{theirs}"))


@pytest.mark.parametrize("layer", range(3))
def test_attention_looks_exactly_where_the_original_looks(watched, of, layer):
    visible = watched[layer, "cross"][0][4]
    assert torch.equal(~visible, of(f"out/dec/l{layer}_attn_mask"))


def test_masks_without_a_cell_look_everywhere(recorded, pixels, watched):
    """The record has queries whose first mask covers no cell of the coarsest level; softmax over none would be NaN."""
    first = recorded.decoder._masks(recorded.decoder.query_feat.weight[None], pixels.masks)
    none = (resize(first, (2, 3)) < 0).flatten(2).all(2)
    assert none.sum() == 8
    assert watched[0, "cross"][0][4][none].all()


def test_mask_logits(proposals, of, close):
    close(proposals.masks, of("out/dec/pred_masks"))


def test_pooling_by_clip(proposals, of, close):
    close(proposals.out_vocab, of("out/cls/pooled_clip"), 5e-5)


def test_a_mask_may_cover_no_cell_of_the_grid(proposals, of):
    empty = (of("out/cls/mask_for_pooling") <= 0).flatten(2).all(2)
    assert torch.equal(~proposals.valid, empty) and empty.any()
    assert proposals.out_vocab[empty].isfinite().all()


def test_class_logits_and_void(scores, of, close):
    close(scores.in_vocab, of("out/dec/pred_logits"))
    close(scores.out_vocab, of("out/cls/out_vocab_logits"), 5e-5)
    close(scores.void, of("out/cls/void_prob"), 5e-5)


def test_ensemble(scores, of, close):
    close(scores.ensemble, of("out/cls/ensemble_log"), 5e-5)
    close(scores.logits, of("out/cls/mask_cls"), 5e-5)
    torch.testing.assert_close(scores.logits.exp(), of("out/cls/mask_cls").exp(), rtol=1e-4, atol=1e-9)


def test_seen_classes(classifier, of):
    assert torch.equal(classifier.seen.long(), of("out/cls/category_overlapping_mask"))


@pytest.fixture(scope="module")
def prediction(recorded, proposals, scores, of):
    return recorded.predictions(pad([of("in/image0")], recorded.config, [SIZE]), proposals, scores)[0]


def test_semantic_map(prediction, of, close):
    close(prediction.semantic()[:, ::3, ::3], of("out/post0/sem_seg"), 5e-5)


def upsampled(of):
    """What the original's masks at the size of the image follow from."""
    return torch.nn.functional.interpolate(of("out/dec/pred_masks"), SIZE, mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize(("least", "overlap"), [(0.0, 0.8), (0.0, 0.5), (0.0, 0.0), (0.3, 0.3), (1.0, 0.8)])
def test_the_panoptic_map_is_identical(of, stages, things, least, overlap):
    ours = panoptic(of("out/cls/mask_cls")[0], upsampled(of), things, least, overlap)
    name = f"out/post0/pan_o{least}_v{overlap}"
    assert ours.ids.dtype == torch.int32 and torch.equal(ours.ids, of(f"{name}/seg"))
    assert [[s.id, int(s.thing), s.label] for s in ours.segments] == stages[f"{name}/info"].tolist()


def test_the_panoptic_map_from_beginning_to_end(prediction, of, stages, things):
    ours = prediction.panoptic(things)
    assert int((ours.ids != of("out/post0/pan_o0.0_v0.8/seg")).sum()) <= 2  # the least mask logit is 2e-6
    info = stages["out/post0/pan_o0.0_v0.8/info"].tolist()
    assert [[s.id, int(s.thing), s.label] for s in ours.segments] == info
    scores, labels = (stages[f"out/post0/pan_o0.0_v0.8/{name}"] for name in ("scores", "labels"))
    for segment in ours.segments:
        assert labels[segment.query] == segment.label and scores[segment.query] == pytest.approx(segment.score, 1e-4)


def test_instances(of, stages, things):
    ours = instances(of("out/cls/mask_cls")[0], upsampled(of), things, 20)
    assert (ours.scores.diff() <= 0).all()
    order = np.lexsort((ours.labels.numpy(), ours.queries.numpy()))
    name = "out/post0/inst"
    theirs = np.lexsort((stages[f"{name}/pred_classes"], stages[f"{name}/query_index"]))
    assert ours.queries.numpy()[order].tolist() == stages[f"{name}/query_index"][theirs].tolist()
    assert ours.labels.numpy()[order].tolist() == stages[f"{name}/pred_classes"][theirs].tolist()
    assert np.array_equal(ours.masks.numpy()[order], stages[f"{name}/pred_masks"][theirs])
    np.testing.assert_allclose(ours.scores.numpy()[order], stages[f"{name}/scores"][theirs], rtol=1e-5)
