import numpy as np
import pytest

from knnseg import LabelledImage, LabelledSegment, Masks, Vocabulary
from knnseg.data.annotations import positions
from knnseg.data.features import Features
from knnseg.data.scores import ClassScores
from knnseg.errors import MaskError, ShapeError, VocabularyError


@pytest.mark.parametrize("names", [[], ["a", "b", "a"], ["a", ""], ["a", "  "], "kettle", [1, 2]])
def test_vocabularies_that_make_no_sense(names):
    with pytest.raises(VocabularyError, match="vocabulary"):
        Vocabulary.of(names)


def test_the_words_for_a_class_are_its_wording_or_the_parts_of_its_name():
    vocabulary = Vocabulary(("sofa, couch", "tree-merged"), wording={"tree-merged": ("tree", "oak", "tree")})
    assert vocabulary.words("sofa, couch") == ("sofa", "couch")
    assert vocabulary.words("tree-merged") == ("tree", "oak")
    assert Vocabulary.of([","]).words(",") == (",",)
    assert Vocabulary(("a",), wording={"a": ()}).words("a") == ("a",)


def test_wording_must_be_of_the_names():
    with pytest.raises(VocabularyError, match=r"wording of \['zebra'\]"):
        Vocabulary(("a",), wording={"zebra": ("striped horse",)})


def test_a_subset_keeps_what_is_known_of_its_names():
    whole = Vocabulary(("sky", "kettle", "cup"), frozenset({"kettle", "cup"}), {"cup": ("mug",), "sky": ("heaven",)})
    part = whole.subset(["cup", "zebra"])
    assert part == Vocabulary(("cup", "zebra"), frozenset({"cup"}), {"cup": ("mug",)})


def test_a_class_map_knows_more_than_the_segments():
    image, segments = np.zeros((1, 3, 3), np.uint8), np.array([[1, 0, 0]], np.int32)
    classes = np.array([[1, 0, -1]], np.int32)
    example = LabelledImage(
        image, segments, (LabelledSegment(1, "cup"),), class_map=classes, class_names=("sky", "cup")
    )
    assert example.semantic(["cup", "sky"]).tolist() == [[0, 1, -1]]
    assert example.semantic(["sky"]).tolist() == [[-1, 0, -1]]
    with pytest.raises(MaskError, match="class map of"):
        LabelledImage(image, segments, (), class_map=classes.T.copy())


def test_things_must_be_among_the_names():
    with pytest.raises(VocabularyError, match="zebra"):
        Vocabulary.of(["a"], things=["zebra"])


def test_dense_and_sparse_masks_are_the_same():
    rng = np.random.default_rng(0)
    dense = rng.random((5, 7, 9)) < 0.4
    masks = Masks.from_dense(dense)
    assert len(masks) == 5 and masks.size == (7, 9)
    assert np.array_equal(masks.dense(), dense)
    assert np.array_equal(masks[3], dense[3])
    np.testing.assert_array_equal(masks.areas, dense.sum((1, 2)))
    assert np.array_equal(masks.select([4, 0]).dense(), dense[[4, 0]])
    assert np.array_equal(masks.select(dense.any((1, 2))).dense(), dense)
    assert np.array_equal(Masks.concatenate([masks.select([0]), masks.select([1])]).dense(), dense[:2])
    assert np.array_equal(Masks.from_rle(masks.to_rle(), (7, 9)).dense(), dense)


def test_a_partition_is_one_mask_for_each_value_in_order():
    regions = np.array([[5, 5, 2], [-1, 2, 2]])
    assert np.array_equal(Masks.from_partition(regions).dense(), [regions == 2, regions == 5])


@pytest.mark.parametrize(
    "array",
    [np.ones((3, 4), bool), np.arange(12).reshape(1, 3, 4), np.full((1, 2, 2), 1.5), np.full((1, 2, 2), np.nan)],
)
def test_masks_that_are_none(array):
    with pytest.raises(MaskError, match="expected"):
        Masks.from_dense(array)


def test_masks_of_different_images_do_not_mix():
    with pytest.raises(MaskError, match="one image size"):
        Masks.concatenate([Masks.from_dense(np.ones((1, 2, 2), bool)), Masks.from_dense(np.ones((1, 3, 3), bool))])


def test_wrong_dtypes_are_named():
    with pytest.raises(ShapeError, match=r"float32.*got 3 dimensions of float64"):
        Features(np.zeros((2, 3, 3)), (6, 6))
    with pytest.raises(ShapeError, match="3 columns"):
        ClassScores(np.zeros((2, 2), np.float32), ("a", "b", "c"))


def test_labelled_images_check_themselves():
    image, segments = np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), np.int32)
    with pytest.raises(MaskError, match="like the image"):
        LabelledImage(image, np.ones((4, 5), np.int32), ())
    with pytest.raises(MaskError, match="distinct positive"):
        LabelledImage(image, segments, (LabelledSegment(1, "a"), LabelledSegment(1, "b")))
    huge = np.full((4, 4), 16_000_000, np.int32)
    example = LabelledImage(image, huge, (LabelledSegment(16_000_000, "a"), LabelledSegment(7, "b")))
    assert (example.semantic(["b", "a"]) == 1).all() and (example.semantic(["b"]) == -1).all()


def test_positions():
    values = np.array([[4, 9], [2, 5]])
    np.testing.assert_array_equal(positions(values, [5, 2, 4]), [[2, -1], [1, 0]])
    np.testing.assert_array_equal(positions(values, []), [[-1, -1], [-1, -1]])


def test_scores_are_selected_and_joined_with_all_that_a_subclass_knows():
    from dataclasses import dataclass

    @dataclass(frozen=True, slots=True, eq=False, kw_only=True)
    class More(ClassScores):
        void: np.ndarray

    whole = More(probabilities=np.eye(3, dtype=np.float32), classes=("a", "b", "c"), void=np.arange(3))
    part = whole.select(np.array([2, 0]))
    assert (
        isinstance(part, More)
        and part.void.tolist() == [2, 0]
        and np.array_equal(part.probabilities, np.eye(3)[[2, 0]])
    )
    both = ClassScores.concatenate([part, whole])
    assert isinstance(both, More) and both.void.tolist() == [2, 0, 0, 1, 2] and both.classes == whole.classes
    with pytest.raises(ShapeError, match="one kind"):
        ClassScores.concatenate([whole, ClassScores(np.eye(3, dtype=np.float32), ("a", "b", "c"))])
    with pytest.raises(ShapeError, match="one kind"):
        ClassScores.concatenate([])


def test_a_vocabulary_of_very_many_names():
    """Quadratic time would be many minutes."""
    names = [f"class {i}" for i in range(200_000)]
    vocabulary = Vocabulary.of(names, things=names[::2])
    part = vocabulary.subset(names[:100_000])
    assert len(part) == 100_000 and len(part.things) == 50_000
    assert vocabulary.index(np.array(names[::-1], object))[:2].tolist() == [199_999, 199_998]
    with pytest.raises(VocabularyError, match="'class 7' more than once"):
        Vocabulary.of([*names, "class 7"])
