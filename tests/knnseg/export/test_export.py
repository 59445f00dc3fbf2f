"""The files of a run: read back they say what was written, and they are whole whatever ends the run."""

import io
import json
import re
import resource
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from knnseg import Masks, Segmentation, Vocabulary, load_label_map
from knnseg.data.scores import ClassScores
from knnseg.data.vocabulary import tidy
from knnseg.datasets import ImageLabelPairs, open_annotations
from knnseg.datasets.folders import read_classes
from knnseg.errors import ConfigError, DatasetError
from knnseg.export import FORMATS, Export
from knnseg.method.painting import Segment
from knnseg.result import Evidence


def made(numbers, labels, vocabulary, source=""):
    """The result whose panoptic map this is; ``labels`` names the segments 1, 2, …, of which all must be there."""
    numbers = np.asarray(numbers, np.int32)
    segments = []
    for number, label in enumerate(labels, 1):
        ys, xs = np.nonzero(numbers == number)
        box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
        segments.append(Segment(number, label, label in vocabulary.things, 0.5, len(xs), box))
    position = np.array([-1, *(vocabulary.names.index(label) for label in labels)], np.int32)
    scores = ClassScores(np.zeros((0, len(vocabulary)), np.float32), vocabulary.names)
    return Segmentation(
        np.zeros((*numbers.shape, 3), np.uint8), vocabulary, position[numbers], numbers, tuple(segments),
        Masks.from_dense(np.zeros((0, *numbers.shape), bool)), scores, Evidence(scores), source=source,
    )  # fmt: skip


KETTLES = Vocabulary(("sand", "kettle"), frozenset({"kettle"}))
ONE = [[0, 1, 1, 0], [2, 2, 1, 3], [2, 2, 1, 3]]


@st.composite
def runs(draw):
    names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6).map(tidy).filter(bool)
    words = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    vocabulary = Vocabulary(tuple(words), frozenset(draw(st.sets(st.sampled_from(words)))))
    maps = []
    for _ in range(draw(st.integers(1, 3))):
        size = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
        values = np.array(draw(st.lists(st.integers(0, 3), min_size=size[0] * size[1], max_size=size[0] * size[1])))
        values[0] = 1  # the readers leave out images without a segment
        present = np.unique(values[values > 0])
        numbers = np.where(values > 0, np.searchsorted(present, values) + 1, 0).reshape(size)
        maps.append((numbers, [draw(st.sampled_from(words)) for _ in present]))
    return vocabulary, maps


@settings(deadline=None, max_examples=20)
@given(runs())
def test_what_is_written_is_read_back(run):
    vocabulary, maps = run
    with tempfile.TemporaryDirectory() as folder:
        root, results = Path(folder), []
        for i, (numbers, labels) in enumerate(maps):
            file = root / "photos" / f"{i % 2}" / f"{i // 2}.png"  # the same names in two folders
            file.parent.mkdir(parents=True, exist_ok=True)
            results.append(made(numbers, labels, vocabulary, str(file)))
            Image.fromarray(results[-1].image).save(file)
        with Export(root / "out", FORMATS, images=root / "photos") as export:
            written = [export.write(result) for result in results]
        for name in ("panoptic", "instances"):
            back = open_annotations(export.files[name], root / "photos")
            assert back.vocabulary == vocabulary
            for example, result in zip(back, results, strict=True):
                assert example.uri == Path(result.source).as_uri()
                assert regions(example.segments, example.info) == regions(result.panoptic, result.segments_info)
        for result, files in zip(results, written, strict=True):
            assert np.array_equal(load_label_map(files.files["semantic"]) - 1, result.semantic)
            beside = root / "out" / "yolo" / "images" / files.files["yolo"].with_suffix(".png").name
            beside.parent.mkdir(exist_ok=True)
            Image.fromarray(result.image).save(beside)
        yolo = {Path(example.uri).stem: example for example in open_annotations(root / "out" / "yolo")}
        for result, files in zip(results, written, strict=True):
            example = yolo[files.files["yolo"].stem]
            assert np.array_equal(example.semantic(vocabulary.names), result.semantic)


def regions(numbers, segments):
    return {(s.label, s.thing, (numbers == s.id).tobytes()) for s in segments}


def test_label_maps_are_pairs_with_their_legend(tmp_path):
    (tmp_path / "photos").mkdir()
    result = made(ONE, ["sand", "kettle", "kettle"], KETTLES, str(tmp_path / "photos" / "a.jpg"))
    Image.fromarray(result.image).save(result.source)
    with Export(tmp_path / "out", ["semantic"]) as export:
        file = export.write(result).files["semantic"]
    pairs = ImageLabelPairs(tmp_path / "photos", file.parent, export.files["semantic"])
    assert pairs.vocabulary == KETTLES and np.array_equal(pairs[0].semantic(KETTLES.names), result.semantic)
    colours = {entry["name"]: entry["color"] for entry in json.loads(export.files["semantic"].read_text())}
    assert np.asarray(Image.open(file).convert("RGB"))[1, 0].tolist() == colours["kettle"]


def test_what_is_unknown_is_not_taught(tmp_path):
    """It is a class of the result, and unlabelled in what is read again."""
    (tmp_path / "photos").mkdir()
    result = made(ONE, ["sand", "unknown", "kettle"], KETTLES.with_unknown(), str(tmp_path / "photos" / "a.png"))
    Image.fromarray(result.image).save(result.source)
    with Export(tmp_path, FORMATS) as export:
        assert load_label_map(export.write(result).files["semantic"])[1, 0] == 3
    (tmp_path / "photos").rename(tmp_path / "yolo" / "images")
    photos = tmp_path / "yolo" / "images"
    read = [open_annotations(export.files[name], photos) for name in ("panoptic", "instances", "yolo")]
    read.append(ImageLabelPairs(photos, tmp_path / "semantic", export.files["semantic"]))
    for labelled in read:
        assert labelled.vocabulary.names == KETTLES.names and {s.label for s in labelled[0].info} == set(KETTLES)
        assert labelled[0].segments[1, 0] == 0 and labelled[0].segments[0, 1] > 0


def test_a_class_that_is_called_unknown_by_others_is_one(tmp_path):
    classes = tmp_path / "classes.json"
    classes.write_text('[{"id": 1, "name": "unknown"}]')
    assert read_classes(classes) == {1: ("unknown", None)}


def test_more_classes_than_a_byte_has(tmp_path):
    vocabulary = Vocabulary(tuple(f"class {i}" for i in range(300)))
    with Export(tmp_path, ["semantic"]) as export:
        written = export.write(made([[1, 0]], ["class 299"], vocabulary))
    assert load_label_map(written.files["semantic"]).tolist() == [[300, 0]]


def test_until_the_end_there_is_no_file_of_annotations_and_then_a_whole_one(tmp_path):
    (tmp_path / "panoptic.json").write_text("of a run before, whose label maps this one replaces")
    with pytest.raises(KeyboardInterrupt), Export(tmp_path, ["panoptic", "instances"]) as export:
        export.write(made(ONE, ["sand", "kettle", "kettle"], KETTLES))
        assert [path.name for path in tmp_path.iterdir()] == ["panoptic"]
        raise KeyboardInterrupt
    for name, count in (("panoptic", 1), ("instances", 3)):
        data = json.loads((tmp_path / f"{name}.json").read_text())
        assert len(data["images"]) == 1 and len(data["annotations"]) == count
    assert sorted(p.name for p in tmp_path.iterdir()) == ["instances.json", "panoptic", "panoptic.json"]


def test_a_full_disk_leaves_the_images_before_it(tmp_path):
    """In a file of its own or of the run, and half of an entry at the most."""
    result = made(np.arange(1, 401).reshape(20, 20), ["sand"] * 400, KETTLES)
    before, failed = resource.getrlimit(resource.RLIMIT_FSIZE), 0
    with Export(tmp_path, ["instances"]) as export:
        export.write(result)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
            for _ in range(3):
                try:
                    export.write(result)
                except OSError:
                    failed += 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        export.write(made(ONE, ["sand", "kettle", "kettle"], KETTLES))
    data = json.loads((tmp_path / "instances.json").read_text())
    identities = {annotation["id"] for annotation in data["annotations"]}
    assert failed > 0 and len(data["images"]) == 5 - failed
    assert len(identities) == len(data["annotations"]) == (4 - failed) * 400 + 3
    assert {a["image_id"] for a in data["annotations"]} == {image["id"] for image in data["images"]}


def test_no_image_no_file(tmp_path):
    with Export(tmp_path / "out", FORMATS) as export:
        pass
    assert export.files == {} and not (tmp_path / "out").exists()


def test_what_does_not_go_together(tmp_path):
    with pytest.raises(ConfigError, match=r"expected some of overlay, .*, got coco"):
        Export(tmp_path, ["coco", "yolo"])
    with pytest.raises(ConfigError, match="got nothing"):
        Export(tmp_path, [])
    with Export(tmp_path, ["panoptic"]) as export:
        export.write(made([[1]], ["sand"], KETTLES, "a/photo.jpg"))
        with pytest.raises(DatasetError, match=r"b/photo.jpg: expected each image once.*photo.jpg again"):
            export.write(made([[1]], ["sand"], KETTLES, "b/photo.jpg"))
        with pytest.raises(DatasetError, match="expected the classes of the images before"):
            export.write(made([[1]], ["grass"], Vocabulary(("grass",)), "c.jpg"))
        assert [export.write(made([[1]], ["sand"], KETTLES)).file_name for _ in "ab"] == ["image-3.png", "image-4.png"]


# -- in a notebook ---------------------------------------------------------------------------------------------------

STRANGE = Vocabulary(('<script>alert("a")</script>', "tea & milk"))


def test_the_picture_has_a_legend_and_is_not_huge():
    result = made(ONE, ["sand", "kettle", "kettle"], KETTLES)
    picture = Image.open(io.BytesIO(result._repr_png_()))
    assert picture.format == "PNG" and picture.height > len(ONE)
    large = made(np.ones((1500, 3000), int), ["sand"], KETTLES)
    assert max(Image.open(io.BytesIO(large._repr_png_())).size) == 1024


def test_names_are_data_in_html():
    page = made(ONE, [*STRANGE, "tea & milk"], STRANGE)._repr_html_()
    assert "<script" not in page and page.count("&lt;script&gt;") == 2
    # Of twelve pixels two have no class; the commonest class comes first.
    assert re.findall(r"</i> (.*?)</span>", page) == [
        "tea &amp; milk 50%",
        "&lt;script&gt;alert(&quot;a&quot;)&lt;/script&gt; 33%",
    ]
    assert re.search(r'alt="[^"<>]*"', page)
