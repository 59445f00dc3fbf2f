import numpy as np
import pytest

from knnseg import ClassScores, Vocabulary
from knnseg.config import FusionConfig, RetrievalConfig
from knnseg.data.scores import Neighbours
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


def test_the_threshold_is_inclusive_and_below_it_the_base_is_untouched():
    exactly = FusionConfig(threshold=float(SURE[0]))
    assert not np.array_equal(fuse(BASE, RETRIEVED, SURE, np.ones(3, bool), exactly).probabilities, BASE.probabilities)
    above = FusionConfig(threshold=float(np.nextafter(SURE[0], np.float32(2))))
    assert np.array_equal(fuse(BASE, RETRIEVED, SURE, np.ones(3, bool), above).probabilities, BASE.probabilities)


@pytest.mark.parametrize("mode", ["late", "supported"])
def test_a_silent_base_leaves_the_word_to_retrieval(mode):
    silent = ClassScores(np.zeros((1, 3), np.float32), VOCABULARY.names)
    fused = fuse(silent, RETRIEVED, SURE, np.array([True, True, False]), FusionConfig(mode=mode))
    np.testing.assert_array_equal(fused.probabilities, RETRIEVED.probabilities)
