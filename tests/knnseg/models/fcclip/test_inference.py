"""Maps from scored masks, against a plain loop over the masks, on many random cases."""

import numpy as np
import pytest
import torch

from knnseg.models.fcclip.inference import crop_resize, instances, panoptic, semantic


def by_loop(logits, masks, things, least, overlap):
    """The rules, one mask after another: what the vectorised merging has to equal."""
    probability = logits.softmax(-1)
    scores, labels = probability.max(-1)
    kept = [q for q in range(len(logits)) if labels[q] != logits.shape[1] - 1 and scores[q] > least]
    ids, segments, stuff = np.zeros(masks.shape[1:], np.int32), [], {}
    if not kept:
        return ids, segments
    shares = masks.sigmoid()[kept]
    owner = (scores[kept][:, None, None] * shares).argmax(0).numpy()
    shares = shares.numpy()
    for i, query in enumerate(kept):
        label, covers = int(labels[query]), shares[i] >= 0.5
        own, visible = owner == i, (owner == i) & covers
        if not visible.any() or own.sum() / covers.sum() < overlap:
            continue
        if label in stuff:
            ids[visible] = stuff[label]
            continue
        segments.append((len(segments) + 1, label, bool(things[label]), query))
        if not things[label]:
            stuff[label] = len(segments)
        ids[visible] = len(segments)
    return ids, segments


def blobs(seed, queries, classes, size=(37, 53), spread=4.0):
    """Smooth random masks, and classes of which some are void."""
    stream = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, queries, 5, 7, generator=stream) * spread - 1
    masks = torch.nn.functional.interpolate(coarse, size, mode="bilinear")[0]
    return torch.randn(queries, classes + 1, generator=stream) * 3, masks


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("least", "overlap"), [(0.0, 0.8), (0.5, 0.3), (0.0, 0.0)])
def test_panoptic_merging_equals_the_loop(seed, least, overlap, monkeypatch):
    monkeypatch.setattr("knnseg.models.fcclip.inference._STRIPE", 5000)  # several stripes, the last one shorter
    logits, masks = blobs(seed, queries=3 + 4 * seed, classes=5)
    things = torch.tensor([True, False, True, False, False])
    ours, (ids, segments) = (
        panoptic(logits, masks, things, least, overlap),
        by_loop(logits, masks, things, least, overlap),
    )
    assert np.array_equal(ours.ids.numpy(), ids)
    assert [(s.id, s.label, s.thing, s.query) for s in ours.segments] == segments


def test_the_cases_have_what_could_go_wrong():
    """Stuff in several masks, rejected masks, pixels of no segment."""
    merged = rejected = blank = 0
    for seed in range(12):
        logits, masks = blobs(seed, 3 + 4 * seed, 5)
        things = torch.tensor([True, False, True, False, False])
        ids, segments = by_loop(logits, masks, things, 0.0, 0.8)
        loose = by_loop(logits, masks, things, 0.0, 0.0)[1]
        rejected += len(loose) > len(segments)
        blank += (ids == 0).any()
        kept = (logits.argmax(1) < 5).sum()
        merged += len(loose) < kept
    assert merged >= 6 and rejected >= 6 and blank >= 6


def test_no_mask_at_all():
    logits, masks = blobs(0, 4, 3)
    logits[:, -1] = 100  # void
    ours = panoptic(logits, masks, torch.ones(3, dtype=torch.bool), 0.0, 0.8)
    assert not ours.ids.any() and ours.ids.dtype == torch.int32 and ours.segments == ()


def test_a_mask_of_no_pixels_is_no_segment():
    logits, masks = blobs(1, 2, 2)
    logits[:, 0], masks[1] = 50, -50
    ours = panoptic(logits, masks, torch.ones(2, dtype=torch.bool), 0.0, 0.0)
    assert [segment.query for segment in ours.segments] == [0]


def test_semantic_sums_leave_void_out():
    logits, masks = blobs(2, 6, 4)
    shares = logits.softmax(1)[:, :4, None, None] * masks.sigmoid()[:, None]
    torch.testing.assert_close(semantic(logits, masks), shares.sum(0))


def test_instances_of_things_are_taken_after_the_best_pairs():
    logits, masks = blobs(3, 6, 4)
    things = torch.tensor([True, False, True, False])
    every, some = instances(logits, masks, None, 10), instances(logits, masks, things, 10)
    assert len(every.scores) == 10
    assert 0 < len(some.scores) < 10 and things[some.labels].all()
    assert len(instances(logits, masks, None, 1000).scores) == 24  # no more pairs than there are


def test_an_empty_mask_scores_zero_as_an_instance():
    logits, masks = blobs(4, 3, 2)
    masks[1] = -5
    found = instances(logits, masks, None, 6)
    assert (found.scores[found.queries == 1] == 0).all() and found.scores.isfinite().all()


def test_padding_is_cut_off_before_resizing():
    x = torch.zeros(1, 8, 12)
    x[:, :5, :7] = 1
    assert torch.equal(crop_resize(x, (5, 7), (10, 21)), torch.ones(1, 10, 21))
