from dataclasses import replace

import numpy as np
import pytest

from knnseg import ClassScores, Vocabulary
from knnseg.config import FusionConfig, RetrievalConfig
from knnseg.data.scores import Neighbours
from knnseg.errors import ShapeError
from knnseg.method.fusion import fuse
from knnseg.method.voting import confidence, vote, vote_weights

VOCABULARY = Vocabulary(("a", "b", "c"))


def neighbours(labels, scores):
    labels = np.array(labels, object)
    ids = np.where(np.isfinite(scores), labels, "")
    return Neighbours(ids, np.array(scores, np.float32), labels)


FOUND = neighbours(
    [["a", "b", "a"], ["c", "", ""], ["", "", ""]], [[0.9, 0.8, 0.5], [0.4, -np.inf, -np.inf], [-np.inf] * 3]
)


def test_exponential_votes_are_equation_3():
    tau = 0.1
    weights = vote_weights(FOUND, RetrievalConfig(temperature=tau))
    w = np.exp((np.array([0.9, 0.8, 0.5]) - 1) / tau)
    shares = vote(FOUND, weights, VOCABULARY).probabilities
    np.testing.assert_allclose(shares[0], [(w[0] + w[2]) / w.sum(), w[1] / w.sum(), 0], rtol=1e-5)
    np.testing.assert_array_equal(shares[1], [0, 0, 1])
    np.testing.assert_array_equal(shares[2], [0, 0, 0])


def test_a_tiny_temperature_is_the_nearest_neighbour():
    weights = vote_weights(FOUND, RetrievalConfig(temperature=1e-6))
    np.testing.assert_array_equal(vote(FOUND, weights, VOCABULARY).probabilities[0], [1, 0, 0])


@pytest.mark.parametrize(
    ("weighting", "expected"), [("uniform", [2 / 3, 1 / 3, 0]), ("similarity", [1.4 / 2.2, 0.8 / 2.2, 0])]
)
def test_other_weightings(weighting, expected):
    weights = vote_weights(FOUND, RetrievalConfig(weighting=weighting))
    np.testing.assert_allclose(vote(FOUND, weights, VOCABULARY).probabilities[0], expected, rtol=1e-5)


def test_class_balance_divides_by_a_power_of_the_class_size():
    config = RetrievalConfig(weighting="uniform", class_balance=0.5)
    weights = vote_weights(FOUND, config, {"a": 100, "b": 4, "c": 1})
    raw = np.array([100**-0.5, 4**-0.5, 100**-0.5])
    np.testing.assert_allclose(weights[0], raw / raw.sum())


SIZED = replace(FOUND, sizes=np.array([[1, 16, 1 / 16], [2, 1, 1], [1, 1, 1]], np.float32))
"""The three entries of the first mask cover as much as it, 16 times as much, and a sixteenth."""


@pytest.mark.parametrize(
    ("whole", "alike"), [(True, [1, 1 / 16, 1 / 16]), (False, [1 / 4, 1, 1 / 64])], ids=["things", "regions"]
)
def test_entries_of_another_size_have_less_of_a_vote(whole, alike):
    config = RetrievalConfig(weighting="uniform", size_match=0.5)
    weights = vote_weights(SIZED, config, whole=whole)
    expected = np.sqrt(alike)
    np.testing.assert_allclose(weights[0], expected / expected.sum(), rtol=1e-6)
    np.testing.assert_array_equal(weights[1:], [[1, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize("whole", [True, False])
def test_sizes_count_only_where_they_are_known_and_asked_for(whole):
    plain = vote_weights(FOUND, RetrievalConfig())
    np.testing.assert_array_equal(vote_weights(SIZED, RetrievalConfig(), whole=whole), plain)
    np.testing.assert_array_equal(vote_weights(FOUND, RetrievalConfig(size_match=0.5), whole=whole), plain)


def test_neighbours_of_several_images_keep_their_sizes():
    first, second = SIZED.split([2, 1])
    np.testing.assert_array_equal(np.concatenate([first.sizes, second.sizes]), SIZED.sizes)
    assert FOUND.split([2, 1])[0].sizes is None


def test_sizes_of_another_shape_are_refused():
    with pytest.raises(ShapeError, match="sizes"):
        replace(FOUND, sizes=np.ones((3, 2), np.float32))


def test_confidence_is_similarity_or_share():
    shares = vote(FOUND, vote_weights(FOUND, RetrievalConfig(weighting="uniform")), VOCABULARY)
    np.testing.assert_allclose(confidence(FOUND, shares, FusionConfig()), [0.9, 0.4, -np.inf], rtol=1e-6)
    np.testing.assert_allclose(
        confidence(FOUND, shares, FusionConfig(confidence="vote")), [2 / 3, 1, -np.inf], rtol=1e-6
    )


BASE = ClassScores(np.array([[0.5, 0.3, 0.2]], np.float32), VOCABULARY.names)
RETRIEVED = ClassScores(np.array([[0.25, 0.75, 0.0]], np.float32), VOCABULARY.names)
SURE = np.array([0.8], np.float32)


def test_late_fusion_is_equation_4():
    fused = fuse(BASE, RETRIEVED, SURE, np.ones(3, bool), FusionConfig(mode="late", weight=0.4))
    np.testing.assert_allclose(
        fused.probabilities[0], 0.4 * RETRIEVED.probabilities[0] + 0.6 * BASE.probabilities[0], rtol=1e-6
    )


def test_supported_fusion_redistributes_the_mass_of_supported_classes():
    fused = fuse(BASE, RETRIEVED, SURE, np.array([True, True, False]), FusionConfig(weight=0.4))
    expected = [0.6 * 0.5 + 0.4 * 0.8 * 0.25, 0.6 * 0.3 + 0.4 * 0.8 * 0.75, 0.2]
    np.testing.assert_allclose(fused.probabilities[0], expected, rtol=1e-6)


def test_supported_fusion_with_every_class_supported_is_late_fusion():
    everything = np.ones(3, bool)
    one = fuse(BASE, RETRIEVED, SURE, everything, FusionConfig(mode="supported")).probabilities
    np.testing.assert_allclose(
        one, fuse(BASE, RETRIEVED, SURE, everything, FusionConfig(mode="late")).probabilities, rtol=1e-6
    )


EVIDENCE = FusionConfig(mode="evidence", weight=0.4, midpoint=0.7, softness=0.05)


def test_evidence_gives_supported_classes_more_of_the_mass_and_redistributes_it():
    trust = 0.4 / (1 + np.exp(-(0.8 - 0.7) / 0.05))
    mass = 0.8 + trust * 0.2
    fused = fuse(BASE, RETRIEVED, SURE, np.array([True, True, False]), EVIDENCE)
    expected = [mass * (0.6 * 0.5 / 0.8 + 0.4 * 0.25), mass * (0.6 * 0.3 / 0.8 + 0.4 * 0.75), 1 - mass]
    np.testing.assert_allclose(fused.probabilities[0], expected, rtol=1e-6)


def test_evidence_is_supported_fusion_where_nothing_is_alike_or_every_class_has_examples():
    far, some = np.array([-10.0], np.float32), np.array([True, True, False])
    for certainty, supported in ((far, some), (SURE, np.ones(3, bool))):
        one = fuse(BASE, RETRIEVED, certainty, supported, replace(EVIDENCE, threshold=-20.0)).probabilities
        other = FusionConfig(mode="supported", weight=0.4, threshold=-20.0)
        np.testing.assert_allclose(one, fuse(BASE, RETRIEVED, certainty, supported, other).probabilities, rtol=1e-6)


def test_evidence_takes_from_none_of_the_classes_too():
    unsure = ClassScores(np.array([[0.3, 0.1, 0.2]], np.float32), VOCABULARY.names)  # 0.4 are none of them
    fused = fuse(unsure, RETRIEVED, SURE, np.array([True, True, False]), EVIDENCE).probabilities[0].astype(float)
    trust = 0.4 / (1 + np.exp(-(0.8 - 0.7) / 0.05))
    np.testing.assert_allclose([fused[2], 1 - fused.sum()], [0.2 * (1 - trust), 0.4 * (1 - trust)], rtol=1e-5)


def test_evidence_finds_a_class_that_the_base_gives_nothing_to():
    sure = ClassScores(np.array([[0.0, 0.0, 1.0]], np.float32), VOCABULARY.names)
    some = np.array([True, True, False])
    fused = fuse(sure, RETRIEVED, SURE, some, replace(EVIDENCE, weight=0.9)).probabilities
    assert (
        fused.argmax() == 1 and fuse(sure, RETRIEVED, SURE, some, FusionConfig(weight=0.9)).probabilities.argmax() == 2
    )


def test_the_threshold_is_inclusive_and_below_it_the_base_is_untouched():
    exactly = FusionConfig(threshold=float(SURE[0]))
    assert not np.array_equal(fuse(BASE, RETRIEVED, SURE, np.ones(3, bool), exactly).probabilities, BASE.probabilities)
    above = FusionConfig(threshold=float(np.nextafter(SURE[0], np.float32(2))))
    assert np.array_equal(fuse(BASE, RETRIEVED, SURE, np.ones(3, bool), above).probabilities, BASE.probabilities)


@pytest.mark.parametrize("mode", ["late", "supported", "evidence"])
def test_a_silent_base_leaves_the_word_to_retrieval(mode):
    silent = ClassScores(np.zeros((1, 3), np.float32), VOCABULARY.names)
    fused = fuse(silent, RETRIEVED, SURE, np.array([True, True, False]), FusionConfig(mode=mode))
    np.testing.assert_array_equal(fused.probabilities, RETRIEVED.probabilities)
