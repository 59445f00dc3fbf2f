"""Whitened keys, context, and sharing a source; without a network."""

import numpy as np
import pytest

from knnseg import ConceptDatabase, Config, Features, Image, Masks, Whitened, WithContext
from knnseg.config import KeysConfig, StageConfig
from knnseg.errors import ConfigError, ShapeError, WeightsError
from knnseg.method.pooling import pool
from knnseg.stages import registry as stages
from knnseg.stages.protocols import features_of
from knnstore import EmbeddingSpace
from knnstore.errors import StoreNotFoundError


class Given:
    """Grids by the value of the first pixel of the image."""

    def __init__(self, grids, extent=(0.0, 0.0), name="given"):
        self.grids, self.extent, self.dim = grids, extent, grids[0].shape[0]
        self.space = EmbeddingSpace(name, f"sha256:{name}")

    def extract(self, images):
        return [Features(self.grids[image.pixels[0, 0, 0]], image.size, self.extent) for image in images]


def images(count, size=(12, 16)):
    return [Image(np.full((*size, 3), i, np.uint8)) for i in range(count)]


@pytest.fixture
def source():
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((5, 5)) * [1, 10, 0.1, 3, 1]
    return Given([(rng.standard_normal((5, 3, 4)).T @ mixing + 7).T.astype(np.float32).copy() for _ in range(30)])


def cells(extractor, pictures):
    return np.concatenate([f.data.reshape(f.dim, -1).T for f in extractor.extract(pictures)])


def test_whitened_features_are_white(source):
    white = cells(Whitened.fit(source, images(30), shrinkage=0), images(30))
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(5), atol=1e-3)


def test_shrinkage_holds_weak_directions_back(source):
    plain, shrunk = (cells(Whitened.fit(source, images(30), shrinkage=s), images(30)) for s in (0, 0.5))
    values = np.linalg.eigvalsh(np.corrcoef(cells(source, images(30)).T))
    expected = np.sort(values / (values + 0.5))
    np.testing.assert_allclose(np.linalg.eigvalsh(np.cov(shrunk.T, bias=True)), expected, atol=1e-3)
    assert np.cov(shrunk.T).trace() < np.cov(plain.T).trace()


def test_the_scale_of_a_channel_does_not_matter(source):
    louder = Given([grid * np.float32([[[1000]], [[1]], [[1]], [[0.01]], [[1]]]) for grid in source.grids])
    one, other = (cells(Whitened.fit(s, images(30)), images(30)) for s in (source, louder))
    np.testing.assert_allclose(one, other, atol=1e-3)


def test_whitening_commutes_with_pooling(source):
    whitened = Whitened.fit(source, images(30))
    mask = Masks.from_dense(np.random.default_rng(1).random((3, 12, 16)) < 0.4)
    raw, white = (extractor.extract(images(1))[0] for extractor in (source, whitened))
    # The mean is what pooling computes before it normalises: recover it from features with a constant channel.
    ones = np.concatenate([raw.data, np.ones((1, *raw.grid), np.float32)])
    vectors = pool(Features(ones, raw.image_size), mask).vectors
    means = vectors[:, :-1] / vectors[:, -1:]
    expected = (means - whitened.mean) @ whitened.matrix
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(pool(white, mask).vectors, expected, atol=1e-4)


def test_the_fit_is_deterministic_and_forgets_the_order(source):
    one, again = Whitened.fit(source, images(30)), Whitened.fit(source, iter(images(30)))
    assert np.array_equal(one.matrix, again.matrix) and np.array_equal(one.mean, again.mean)
    assert one.space == again.space and one.dim == 5
    turned = Whitened.fit(source, reversed(images(30)))
    np.testing.assert_allclose(turned.matrix, one.matrix, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(turned.mean, one.mean, rtol=1e-5)


def test_padding_does_not_count():
    rng = np.random.default_rng(2)
    inside = [rng.standard_normal((3, 2, 2)).astype(np.float32) for _ in range(9)]
    padded = [np.pad(grid, ((0, 0), (0, 1), (0, 0)), constant_values=99).astype(np.float32) for grid in inside]
    one = Whitened.fit(Given(inside), images(9, (8, 8)))
    other = Whitened.fit(Given(padded, (12.0, 8.0)), images(9, (8, 8)))
    np.testing.assert_allclose(one.matrix, other.matrix, rtol=1e-5)
    contexts = [
        WithContext(g, 1).extract(images(1, (8, 8)))[0].context for g in (Given(inside), Given(padded, (12.0, 8.0)))
    ]
    np.testing.assert_allclose(*contexts, rtol=1e-5)


def test_channels_that_never_vary_are_dropped(source):
    dead = Given([np.concatenate([grid, np.zeros((1, 3, 4), np.float32)]) for grid in source.grids])
    whitened = Whitened.fit(dead, images(30))
    assert not whitened.matrix[5].any() and not whitened.matrix[:, 5].any()
    np.testing.assert_allclose(whitened.matrix[:5, :5], Whitened.fit(source, images(30)).matrix, rtol=1e-5)


def test_saved_and_loaded_is_the_same(source, tmp_path):
    whitened = Whitened.fit(source, images(30))
    whitened.save(tmp_path / "w")
    loaded = Whitened.load(tmp_path / "w", source)
    assert loaded.space == whitened.space
    assert np.array_equal(cells(loaded, images(2)), cells(whitened, images(2)))


def test_a_whitening_of_another_source_is_refused(source, tmp_path):
    Whitened.fit(source, images(30)).save(tmp_path / "w.npz")
    with pytest.raises(ConfigError, match=r"fitted to 'other'.*one fitted to 'given'.*Fit it again"):
        Whitened.load(tmp_path / "w.npz", Given(source.grids, name="other"))


@pytest.mark.parametrize("content", [None, b"", b"not a zip", "objects", "other"])
def test_files_that_are_no_whitening(source, tmp_path, content):
    path = tmp_path / "w.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "objects":
        np.savez(path, format=np.array([{"a": 1}], object))
    elif content == "other":
        np.savez(path, mean=np.zeros(3))
    with pytest.raises(WeightsError, match="whitening saved by knnseg"):
        Whitened.load(path, source)


def test_fits_that_cannot_be(source):
    with pytest.raises(ConfigError, match="got none"):
        Whitened.fit(source, [])
    with pytest.raises(ConfigError, match="at least 0, got -1"):
        Whitened.fit(source, images(3), shrinkage=-1)
    with pytest.raises(ConfigError, match="features that vary"):
        Whitened.fit(Given([np.ones((2, 2, 2), np.float32)]), images(1))
    with pytest.raises(ShapeError, match=r"expected a mean \(5,\).*got \(4,\)"):
        Whitened(source, np.zeros(4, np.float32), np.eye(5, dtype=np.float32))
    with pytest.raises(ShapeError, match="finite"):
        Whitened(source, np.full(5, np.nan, np.float32), np.eye(5, dtype=np.float32))


def test_context_is_the_weighted_direction_of_the_image(source):
    keys = WithContext(source, 0.7)
    features = keys.extract(images(1))[0]
    mean = source.grids[0].mean(axis=(1, 2))
    np.testing.assert_allclose(features.context, 0.7 * mean / np.linalg.norm(mean), rtol=1e-5)
    assert keys.dim == 10 and np.array_equal(features.data, source.grids[0])


def test_pooling_appends_the_context(source):
    masks = Masks.from_dense(np.random.default_rng(3).random((4, 12, 16)) < 0.4)
    (one, other), keys = images(2), WithContext(source, 0.7)
    own, both = ([pool(e.extract([i])[0], masks).vectors for i in (one, other)] for e in (source, keys))
    assert both[0].shape == (4, 10)
    np.testing.assert_allclose(np.linalg.norm(both[0], axis=1), 1, atol=1e-6)
    contexts = [keys.extract([i])[0].context / np.float32(0.7) for i in (one, other)]
    expected = (own[0] @ own[1].T + 0.49 * (contexts[0] @ contexts[1])) / 1.49
    np.testing.assert_allclose(both[0] @ both[1].T, expected, atol=1e-5)


def test_an_empty_mask_has_no_context_either(source):
    assert not pool(
        WithContext(source, 1).extract(images(1))[0], Masks.from_dense(np.zeros((1, 12, 16), bool))
    ).vectors.any()


def test_contexts_come_last_and_once(source):
    keys = WithContext(source, 1)
    for again in (WithContext(keys, 1), Whitened(keys, np.zeros(10, np.float32), np.eye(10, dtype=np.float32))):
        with pytest.raises(ConfigError, match="comes last, and once"):
            again.extract(images(1))
    for weight in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="above 0"):
            WithContext(source, weight)


def test_every_step_is_another_space(source):
    whitened, less = Whitened.fit(source, images(30)), Whitened.fit(source, images(29))
    steps = [source, whitened, less, WithContext(source, 0.5), WithContext(whitened, 0.5), WithContext(whitened, 0.6)]
    assert len({extractor.space.fingerprint for extractor in steps}) == len(steps)
    assert steps[-1].space.encoder == "given+whitened+context"


def test_the_source_is_computed_once(extractor, scene):
    examples = [scene(i) for i in range(4)]
    keys = WithContext(Whitened.fit(extractor, [e.image for e in examples]), 0.5)
    extractor.calls = 0
    image = Image(examples[0].image)
    (base,), (shared,) = features_of([image], extractor), features_of([image], keys)
    assert extractor.calls == 1
    assert features_of([image, image], keys) == [shared, shared] and features_of([image], extractor) == [base]
    assert extractor.calls == 1
    assert np.array_equal(shared.data, keys.extract([Image(examples[0].image)])[0].data)


def test_keys_from_the_configuration(tmp_path, colour_features, scene, monkeypatch):
    source = colour_features()
    monkeypatch.setitem(stages._loaded(), ("features", "colour"), colour_features)
    whitened = Whitened.fit(source, [scene(i).image for i in range(4)])
    whitened.save(tmp_path / "w.npz")
    config = Config(StageConfig("colour"), StageConfig("regions"), keys=KeysConfig(str(tmp_path / "w.npz"), 0.5))
    made = stages.make_extractor(config)
    assert made.space == WithContext(whitened, 0.5).space
    assert stages.make_extractor(Config(config.features, config.masks)).space == source.space
    other = Config(StageConfig("colour", {"cell": 4}), config.masks, keys=config.keys)
    with pytest.raises(ConfigError, match="Fit it again"):
        stages.make_extractor(other)


def test_keys_of_one_kind_never_meet_another(store_url, extractor, scene):
    with ConceptDatabase.open(store_url, extractor) as database:
        database.add(scene(0))
    keys = WithContext(extractor, 0.5)
    with pytest.raises(StoreNotFoundError, match="context"):
        ConceptDatabase.open(store_url, keys, create=False)
    with ConceptDatabase.open(store_url, keys) as database:
        assert not database.concepts() and database.add(scene(0)).added == 3


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_a_power_of_the_covariance_lies_between_centring_and_whitening(exponent):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(4000, 5)) @ rng.normal(size=(5, 5)) + 3
    mean, covariance = vectors.mean(0), np.cov(vectors.T, bias=True)

    class Source:
        space, dim = EmbeddingSpace("source", "sha256:source"), 5

    made = Whitened.of_moments(Source(), mean, covariance, exponent)
    after = np.cov(((vectors - made.mean) @ made.matrix).T, bias=True)
    spread = np.linalg.eigvalsh(after)
    values = np.linalg.eigvalsh(covariance)
    wanted = np.sort(values / (values + 1e-3 * values.mean()) ** exponent)
    assert np.allclose(spread / spread[-1], wanted / wanted[-1], atol=1e-3)
    assert exponent or np.array_equal(made.matrix, np.eye(5, dtype=np.float32))
