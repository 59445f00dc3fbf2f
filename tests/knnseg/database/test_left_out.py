"""An image that cannot be used is named with the reason, and costs the others nothing."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from knnseg import ConceptDatabase
from knnseg.cli.commands import app
from knnseg.database.originals import Originals
from knnseg.database.reembedding import reembed
from knnseg.datasets import ImageLabelPairs, RenderedScenes
from knnseg.errors import ConfigError, DatasetError, ImageError, KnnSegWarning, WeightsError, skipping
from knnseg.evaluation import Journal, evaluate
from knnstore.errors import StoreConnectionError

CLASSES = {1: "sky", 2: "grass", 3: "ball"}


@pytest.fixture
def pairs(tmp_path, scene):
    """Eight pairs in files; of the second the image is cut short, of the fourth the label map, the sixth has vanished."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for i in range(8):
        example = scene(i)
        Image.fromarray(example.image).save(tmp_path / "images" / f"{i}.png")
        numbers = example.semantic(list(CLASSES.values())) + 1
        Image.fromarray(numbers.astype(np.uint8)).save(tmp_path / "labels" / f"{i}.png")
    opened = ImageLabelPairs(tmp_path / "images", tmp_path / "labels", CLASSES)
    for name in ("images/1.png", "labels/3.png"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:100])
    (tmp_path / "images" / "5.png").unlink()
    return opened


BAD = ("images/1.png", "labels/3.png", "images/5.png")


def named(failed, names=BAD):
    assert len(failed) == len(names)
    assert all(name in text and ": " in text for name, text in zip(names, failed, strict=True)), failed


def test_adding_goes_on_and_the_report_names_each(database, pairs, tmp_path, extractor):
    with pytest.warns(KnnSegWarning, match=r"left out: 3, .*1\.png"):
        report = database.add(pairs, batch=3)
    named(report.failed)
    good = [pairs[i] for i in (0, 2, 4, 6, 7)]
    assert (report.images, report.added) == (5, sum(len(one.info) for one in good))
    with ConceptDatabase.open(f"memory://{tmp_path}/good", extractor) as other:
        assert other.add(good).added == report.added
        assert other.concepts() == database.concepts()


def test_strict_stops_at_the_first(database, pairs):
    with pytest.raises(ImageError, match=r"images/1\.png"):
        database.add(pairs, strict=True)


def test_an_image_that_the_extractor_refuses_costs_only_itself(database, scene, extractor):
    examples = [scene(i) for i in range(4)]
    plain = extractor.extract

    def refusing(images):
        if any(np.array_equal(image.pixels, examples[2].image) for image in images):
            raise ImageError("sides of a more usual ratio")
        return plain(images)

    extractor.extract = refusing
    with pytest.warns(KnnSegWarning):
        report = database.add(examples)
    assert report.failed == ("scene:2: sides of a more usual ratio",) and report.images == 4
    with pytest.raises(ImageError):
        database.add(examples[2])  # one image alone is not left out
    with pytest.raises(ImageError):
        database.add_masks(examples[2].image, np.ones((1, 48, 64), bool), ["all"])


def test_what_a_generator_raises_is_raised(database, pairs):
    with pytest.raises(ImageError):
        database.add(pairs[i] for i in range(8))
    with pytest.raises(DatasetError, match="add_masks"):
        database.add([pairs[0], pairs[0].image])  # a mistake of the program, not of an image


def test_what_is_no_image_to_blame_for_is_raised():
    for error in (WeightsError("x"), StoreConnectionError("x"), ConfigError("x"), OSError("x")):
        with pytest.raises(type(error)), skipping([]):
            raise error


def test_evaluating_goes_on_and_tries_again_what_had_failed(database, make_segmenter, pairs, scene, tmp_path):
    database.add(scene(i) for i in range(20, 24))
    segmenter = make_segmenter(database)
    with Journal(tmp_path / "progress", {}) as journal, pytest.warns(KnnSegWarning, match="left out: 3"):
        report = evaluate(segmenter, pairs, list(CLASSES.values()), journal=journal)
    named(report.failed)
    assert [counts.place for counts in report.counts] == [0, 2, 4, 6, 7] and report.to_dict()["images"] == 5
    assert report.to_dict()["failed"] == list(report.failed)
    expected = evaluate(segmenter, [pairs[i] for i in (0, 2, 4, 6, 7)], list(CLASSES.values())).to_dict()
    assert report.to_dict() | {"failed": []} == expected
    Image.fromarray(scene(1).image).save(tmp_path / "images" / "1.png")
    with Journal(tmp_path / "progress", {}) as journal, pytest.warns(KnnSegWarning, match="left out: 2"):
        again = evaluate(segmenter, pairs, list(CLASSES.values()), journal=journal)
    assert [counts.place for counts in again.counts] == [0, 1, 2, 4, 6, 7]
    with pytest.raises(ImageError):
        evaluate(segmenter, pairs, list(CLASSES.values()), strict=True)


def test_evaluating_nothing_but_bad_images_is_an_error(make_segmenter, pairs, tmp_path):
    shutil.rmtree(tmp_path / "images")
    with pytest.raises(DatasetError, match=r"none that can be used, such as .*0\.png"):
        evaluate(make_segmenter(), pairs, list(CLASSES.values()))


def test_embedding_again_names_each(database, pairs, tmp_path, colour_features, scene):
    for i in range(8):
        database.add(replace(scene(i), uri=str(tmp_path / "images" / f"{i}.png")))
    before = database.store.count()
    with ConceptDatabase.open(f"memory://{tmp_path}/other", colour_features(6, "other")) as other:
        with pytest.warns(KnnSegWarning, match="left out: 2"):
            report = reembed(database.store, other)
        reasons = sorted(report.failed)
        assert "images/1.png: unreadable" in reasons[0] and "5.png: not found" in reasons[1]
        assert report.images == 6 and report.added + report.missing == before
        with pytest.raises(DatasetError, match=r"\.png"):
            reembed(database.store, other, Originals(tmp_path / "images"), strict=True)


# -- as commands -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four rendered scenes as pairs; the image of the second is cut short."""
    root, scenes = tmp_path_factory.mktemp("pairs"), RenderedScenes(4, seed=5, size=(96, 96), including=["kettle"])
    names = list(scenes.classes)
    for name in ("images", "labels"):
        (root / name).mkdir()
    for i, scene in enumerate(scenes):
        Image.fromarray(scene.image).save(root / "images" / f"{i}.png")
        Image.fromarray((scene.semantic(names) + 1).astype(np.uint8)).save(root / "labels" / f"{i}.png")
    (root / "images" / "1.png").write_bytes(b"\x89PNG\r\n")
    classes = [{"id": i, "name": n, "isthing": n in scenes.thing_classes} for i, n in enumerate(names, 1)]
    (root / "classes.json").write_text(json.dumps(classes))
    return root


@pytest.fixture
def given(folder):
    return ["--pairs", folder / "images", folder / "labels", "--class-file", folder / "classes.json"]


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_add(folder, given, tmp_path):
    done = run("add", "-s", f"faiss://{tmp_path}/s", *given, "--json")
    assert done.exit_code == 3 and json.loads(done.stdout)["images"] == 3
    assert done.stderr.count("knnseg: left out: ") == 1 and "images/1.png" in done.stderr
    strict = run("add", "-s", f"faiss://{tmp_path}/t", *given, "--strict")
    assert isinstance(strict.exception, ImageError)


def test_eval(folder, given, tmp_path):
    done = run("eval", *given, "-c", "grass,sand", "--out", tmp_path, "--pictures", 1, "--json")
    result = json.loads(done.stdout)
    assert done.exit_code == 3 and result["images"] == 3 and "images/1.png" in result["failed"][0]
    assert "1 images could not be used" in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "report.json").read_text()) == result
    assert isinstance(run("eval", *given, "-c", "grass", "--strict").exception, ImageError)


def test_segment(folder, tmp_path):
    images = [folder / "images" / f"{i}.png" for i in (0, 1, 2, 9)]
    (tmp_path / "overlay" / "2.png").mkdir(parents=True)  # so the results of the third image cannot be written
    arguments = ["segment", *images, "-c", "grass,sand", "-o", tmp_path]
    done = run(*arguments, "--json")
    result = json.loads(done.stdout)
    assert done.exit_code == 3 and [image["image"] for image in result["images"]] == [str(images[0])]
    assert len(result["failed"]) == 3
    for path in images[1:]:
        (text,) = (text for text in result["failed"] if text.startswith(f"{path}: "))
        assert f"knnseg: left out: {text}" in done.stderr
    assert isinstance(run(*arguments, "--strict").exception, ImageError)
    nothing = run("segment", *images[1:2], "-c", "grass", "-o", tmp_path)
    assert nothing.exit_code == 1 and nothing.stdout == ""


def test_reembed(folder, given, tmp_path):
    url = f"faiss://{tmp_path}/s"
    run("add", "-s", url, *given)
    config = tmp_path / "smaller.toml"
    config.write_text('preset = "tiny"\n[features]\nshort_side = 96\n', encoding="utf-8")
    (folder / "images" / "2.png").rename(tmp_path / "gone.png")
    try:
        done = run("concepts", "reembed", "-s", url, "-p", config, "--json")
        report = json.loads(done.stdout)
        assert done.exit_code == 3 and report["images"] == 2 and "2.png: not found" in report["failed"][0]
        assert "2.png: not found" in done.stderr and "--images" in done.stderr
        renamed = run("concepts", "reembed", "-s", url, "-p", config, "--images", tmp_path, "--json")
        assert renamed.exit_code == 0 and json.loads(renamed.stdout)["images"] == 1
    finally:
        (tmp_path / "gone.png").rename(folder / "images" / "2.png")
