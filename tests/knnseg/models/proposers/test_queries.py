"""Mask2Former and EoMT: masks lie where transformers' own pieces would put them, scores are what the page says."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from scipy.special import expit

from knnseg import Image
from knnseg.errors import ConfigError
from knnseg.models.proposers import queries
from knnseg.models.proposers.queries import QueryProposer, load_eomt, load_mask2former
from knnseg.stages.protocols import MaskProposer

ALL = {"min_score": 0.0, "min_coverage": 1e-9, "device": "cpu"}


def dense(masks):
    return masks.matrix.toarray().reshape(len(masks), *masks.size)


def by_score(coverage, objects, most=100):
    """Independent of the proposer: (1 - P(no object)) times the mean probability inside, best first."""
    scores = []
    for mask, sure in zip(coverage, objects, strict=True):
        inside = mask >= 0.5
        scores.append(float(sure) * (float(mask[inside].mean()) if inside.any() else 0.0))
    order = np.argsort(-np.array(scores), kind="stable")
    order = [i for i in order if scores[i] > 0][:most]
    return coverage[order], np.array(scores)[order]


def raw(folder, image, kind="AutoModelForUniversalSegmentation"):
    network = getattr(transformers, kind).from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    inputs = processor(images=np.ascontiguousarray(image.transpose(2, 0, 1)), return_tensors="pt")
    with torch.no_grad():
        outputs = network(pixel_values=inputs["pixel_values"])
    return inputs, outputs, processor


@pytest.mark.parametrize(("load", "folder"), [(load_mask2former, "m2f_folder"), (load_eomt, "eomt_folder")])
def test_masks_of_a_large_photograph_are_made_on_a_bounded_grid(load, folder, image, request, monkeypatch):
    proposer = load(str(request.getfixturevalue(folder)), **ALL)
    fine = proposer.propose([Image(image)])[0]
    monkeypatch.setattr(queries, "MASK_SIDE", 40)
    masks = proposer.propose([Image(image)])[0]
    assert masks.size == fine.size == (45, 71) and masks.grid == (25, 40) and len(masks) == len(fine)
    np.testing.assert_allclose(masks.areas.sum(), fine.areas.sum(), rtol=0.02)


def test_mask2former_masks_and_scores(m2f_folder, image):
    proposer = load_mask2former(str(m2f_folder), **ALL)
    masks = proposer.propose([Image(image)])[0]
    inputs, outputs, _ = raw(m2f_folder, image)
    assert isinstance(proposer, MaskProposer) and masks.size == (45, 71) and masks.instances
    logits = F.interpolate(outputs.masks_queries_logits, inputs["pixel_values"].shape[2:], mode="bilinear")
    logits = F.interpolate(logits, (45, 71), mode="bilinear")[0]
    objects = 1 - outputs.class_queries_logits[0].softmax(-1)[:, -1]
    coverage, scores = by_score(logits.sigmoid().numpy(), objects)
    np.testing.assert_allclose(dense(masks), coverage, atol=1e-5)
    np.testing.assert_allclose(masks.scores, scores, rtol=1e-4)
    assert len(masks) == 9 and scores.std() > 0.01  # the queries differ, so that the order is tested


def test_padding_of_mask2former_is_taken_off(saved, m2f_folder, image):
    """With a fixed size to pad to, more than half of the input is padding; and it is padded on to multiples of 32."""
    network = transformers.AutoModelForUniversalSegmentation.from_pretrained(m2f_folder)
    processor = transformers.Mask2FormerImageProcessor(
        size={"shortest_edge": 60, "longest_edge": 100}, size_divisor=0, pad_size={"height": 110, "width": 130}
    )
    masks = QueryProposer(network, processor, **ALL).propose([Image(image)])[0]
    inputs = processor(images=image, return_tensors="pt")
    height, width = 60, 94  # 45×71 to a shortest edge of 60
    assert inputs["pixel_values"].shape[2:] == (110, 130) and int(inputs["pixel_mask"].sum()) == height * width
    padded = F.pad(inputs["pixel_values"], (0, 30, 0, 18))
    with torch.no_grad():
        outputs = network.eval()(pixel_values=padded)
    logits = F.interpolate(outputs.masks_queries_logits, (128, 160), mode="bilinear")[:, :, :height, :width]
    coverage = F.interpolate(logits, (45, 71), mode="bilinear")[0].sigmoid().numpy()
    expected, scores = by_score(coverage, 1 - outputs.class_queries_logits[0].softmax(-1)[:, -1])
    np.testing.assert_allclose(dense(masks), expected, atol=1e-5)
    np.testing.assert_allclose(masks.scores, scores, rtol=1e-4)


@pytest.mark.parametrize("turned", [False, True])
def test_eomt_agrees_with_transformers_own_unpadding(eomt_folder, image, turned):
    picture = np.ascontiguousarray(image.transpose(1, 0, 2)) if turned else image
    masks = load_eomt(str(eomt_folder), **ALL).propose([Image(picture)])[0]
    _, outputs, processor = raw(eomt_folder, picture)
    logits = F.interpolate(outputs.masks_queries_logits, (64, 64), mode="bilinear")
    placed = processor.unpad_image(logits, [picture.shape[:2]], processor.size)[0]
    objects = 1 - outputs.class_queries_logits[0].softmax(-1)[:, -1]
    coverage, scores = by_score(placed.sigmoid().numpy(), objects)
    np.testing.assert_allclose(dense(masks), coverage, atol=1e-5)
    np.testing.assert_allclose(masks.scores, scores, rtol=1e-4)
    assert masks.instances


@pytest.mark.parametrize("turned", [False, True])
def test_windows_of_eomt_lie_where_transformers_merges_them(eomt_windows_folder, image, turned):
    """Merged one at a time, a window's logits stand where the window was; pixels on its edge are left out here."""
    wide = np.concatenate([image, image[:, ::-1]], 1)  # 45×142: four windows
    picture = np.ascontiguousarray(wide.transpose(1, 0, 2)) if turned else wide
    size = picture.shape[:2]
    masks = load_eomt(str(eomt_windows_folder), **ALL).propose([Image(picture)])[0]
    inputs, outputs, processor = raw(eomt_windows_folder, picture)
    logits = F.interpolate(outputs.masks_queries_logits, (64, 64), mode="bilinear")
    found = dense(masks)
    assert len(logits) == 4 and not masks.instances and len(masks) > 12
    unseen = 0
    for window, (_, start, end) in enumerate(inputs["patch_offsets"]):

        def merged(values, place=(0, int(start), int(end))):
            return processor.merge_image_patches(values, [place], [size], processor.size)[0].numpy()

        shown = merged(torch.ones(1, 1, 64, 64))[0]
        expected = expit(merged(logits[window : window + 1]))
        assert (shown == 0).any() and (shown == 1).any()
        for query in expected:
            distance = np.abs(np.where(shown == 1, found - query, np.where(shown == 0, found, 0))).max(axis=(1, 2))
            unseen += distance.min() > 1e-5
    assert unseen == 4 * 6 - len(masks)  # a mask that covers nothing by half has no score, and is left out


def test_eomt_on_dinov3_and_mask2former_on_resnet(saved, tiny, image):
    torch.manual_seed(0)
    options = {key: value for key, value in tiny.EOMT.items() if key != "num_upscale_blocks"}
    eomt = transformers.EomtDinov3ForUniversalSegmentation(
        transformers.EomtDinov3Config(**options, intermediate_size=64)
    )
    size = {"shortest_edge": 64, "longest_edge": 64}
    folder = saved("dinov3", eomt, transformers.EomtImageProcessor(size=size, do_pad=True))
    masks = load_eomt(str(folder), **ALL).propose([Image(image)])[0]
    assert masks.size == (45, 71) and len(masks) > 0
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 1, 1], out_features=tiny.STAGES
    )
    processor = transformers.Mask2FormerImageProcessor(size={"shortest_edge": 60, "longest_edge": 100})
    folder = saved("resnet", tiny.mask2former(backbone), processor)
    masks = load_mask2former(str(folder), **ALL).propose([Image(image)])[0]
    assert masks.size == (45, 71) and len(masks) > 0


@pytest.mark.parametrize("size", [(1, 1), (3, 90), (64, 64), (200, 31)])
def test_any_size(m2f_folder, eomt_folder, eomt_windows_folder, size):
    picture = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    inputs, _, processor = raw(
        m2f_folder, picture
    )  # channels first: at a height of 3 the last would be guessed wrongly
    assert torch.equal(queries._mask2former_view(processor, picture).pixels, inputs["pixel_values"])
    for proposer in (
        load_mask2former(str(m2f_folder), **ALL),
        load_eomt(str(eomt_folder), **ALL),
        load_eomt(str(eomt_windows_folder), **ALL),
    ):
        masks = proposer.propose([Image(picture)])[0]
        assert masks.size == size and masks.matrix.data.max(initial=0) <= 1


def test_memory_is_bounded_without_a_trace_in_the_result(m2f_folder, image, monkeypatch):
    proposer = load_mask2former(str(m2f_folder), **ALL)
    together = proposer.propose([Image(image)])[0]
    monkeypatch.setattr(queries, "_VALUES", 2 * 64 * 96)
    apart = proposer.propose([Image(image)])[0]
    np.testing.assert_allclose(dense(together), dense(apart), atol=1e-6)
    np.testing.assert_allclose(together.scores, apart.scores, rtol=1e-6)


def test_options_choose_among_the_masks(m2f_folder, image):
    first = load_mask2former(str(m2f_folder), **ALL)

    def again(**options):
        return QueryProposer(first._model, first._processor, **options)

    every = again(**ALL).propose([Image(image)])[0]
    middle = float(np.sort(every.scores)[4])
    some = again(**ALL | {"min_score": middle}).propose([Image(image)])[0]
    assert (some.scores == every.scores[every.scores >= middle]).all() and len(some) < len(every)
    best = again(max_masks=2, **ALL).propose([Image(image)])[0]
    assert (best.matrix != every.matrix[:2]).nnz == 0
    cut = again(**ALL | {"min_coverage": 0.3}).propose([Image(image)])[0]
    np.testing.assert_array_equal(dense(cut), np.where(dense(every) >= 0.3, dense(every), 0))
    none = again(**ALL | {"min_score": 1.0}).propose([Image(image)])[0]
    assert len(none) == 0 and none.size == (45, 71) and none.instances


def test_proposals_repeat(m2f_folder, image):
    one, other = (load_mask2former(str(m2f_folder), **ALL).propose([Image(image)])[0] for _ in range(2))
    assert (one.matrix != other.matrix).nnz == 0 and (one.scores == other.scores).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_score": 1.5},
        {"max_masks": 0},
        {"min_coverage": 0.0},
        {"min_coverage": 0.6},
        {"min_score": "high"},
        {"max_masks": True},
        {"device": "quantum"},
    ],
)
def test_options_out_of_range(m2f_folder, wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        load_mask2former(str(m2f_folder), **{"device": "cpu"} | wrong)
