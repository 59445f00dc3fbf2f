"""The same examples in another embedding space: ids, fields, interruption, and images that have gone."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from knnseg import ConceptDatabase
from knnseg.data.image import Image as Picture
from knnseg.data.image import content_hash
from knnseg.data.masks import Masks
from knnseg.database.originals import Originals, stored_images
from knnseg.database.reembedding import ReembedReport, reembed
from knnseg.errors import ConfigError, DatasetError, KnnSegWarning
from knnseg.method.pooling import pool
from knnstore import StoreSpec, open_store
from knnstore.errors import SpecMismatchError


@pytest.fixture
def files(tmp_path, scene):
    """Labelled images that lie in files, one of them in a folder with a space and an umlaut."""
    examples = []
    for i in range(6):
        folder = tmp_path / ("größere Bilder" if i == 0 else "images")
        folder.mkdir(exist_ok=True)
        path, example = folder / f"{i}.png", scene(i, ("sky", "grass", "ball"))
        Image.fromarray(example.image).save(path)
        examples.append(replace(example, uri=path.as_uri() if i != 1 else str(path)))
    return examples


@pytest.fixture
def other(store_url, colour_features):
    with ConceptDatabase.open(store_url, colour_features(6, "other")) as database:
        yield database


def rows(database):
    found = {}
    for records in database.store.scan(with_vectors=True):
        for i, identity in enumerate(records.ids):
            found[identity] = (records.vectors[i].tobytes(), {n: c[i] for n, c in records.fields.items()})
    return found


def without_coverage(content):
    return {i: {n: v for n, v in fields.items() if n != "coverage"} for i, (_, fields) in content.items()}


def test_ids_and_fields_stay_and_vectors_are_as_if_added_there(database, other, files, tmp_path, colour_features):
    database.add(files, writer="ann")
    database.rename("ball", "sphere")
    before = rows(database)
    report = reembed(database.store, other)
    assert report == ReembedReport(images=6, added=len(before))
    assert rows(database) == before and without_coverage(rows(other)) == without_coverage(before)
    with ConceptDatabase.open(f"memory://{tmp_path}/direct", colour_features(6, "other")) as direct:
        direct.add(files)
        expected = rows(direct)
    again = rows(other)
    assert {i: vector for i, (vector, _) in again.items()} == {i: vector for i, (vector, _) in expected.items()}
    assert all(again[i][1]["coverage"] == fields["coverage"] for i, (_, fields) in expected.items())


def test_an_interrupted_run_computes_only_what_is_missing(database, other, files):
    database.add(files)
    reached = []

    class Failing(Originals):
        def find(self, image):
            if len(reached) == 4:
                raise KeyboardInterrupt
            reached.append(image.image_hash)
            return super().find(image)

    with pytest.raises(KeyboardInterrupt) as caught:
        reembed(database.store, other, Failing(), batch=2)
    done, calls = other.store.count(), other.extractor.calls
    assert caught.value.__notes__ == [
        f"{done} examples had been added and 0 were there already; they stay. Running it again goes on from there."
    ]
    assert 0 < done < database.store.count() and calls == 4
    report = reembed(database.store, other, batch=2)
    assert (report.present, report.images) == (done, 2) and other.extractor.calls == 6
    assert set(rows(other)) == set(rows(database))


def test_images_that_have_moved_are_found_by_name_and_known_by_their_pixels(database, other, files, tmp_path):
    database.add(files)
    (tmp_path / "images").rename(tmp_path / "moved")
    impostor = tmp_path / "moved" / "aa" / "2.png"
    impostor.parent.mkdir()
    Image.new("RGB", (64, 48)).save(impostor)
    (tmp_path / "moved" / "ab").mkdir()
    (tmp_path / "moved" / "ab" / "2.png").write_bytes(b"no picture")
    with pytest.warns(KnnSegWarning, match="left out: 5"):
        report = reembed(database.store, other)
    assert report.images == 1 and report.missing == database.store.count() - report.added
    assert len(report.failed) == 5 and all("images" in uri for uri in report.failed)
    report = reembed(database.store, other, Originals(tmp_path / "moved"))
    assert report.images == 5 and not report.missing and set(rows(other)) == set(rows(database))


def test_what_cannot_be_embedded_again_is_counted_and_left(database, other, files, scene):
    database.add(files[:2])
    database.add(files[2], keep_masks=False)
    image = scene(40).image
    mask = np.zeros((1, *image.shape[:2]), bool)
    mask[0, :5] = True
    database.add_masks(image, mask, ["sky"])  # nobody said where it is
    with pytest.warns(KnnSegWarning):
        report = reembed(database.store, other)
    assert (report.images, report.maskless, report.missing) == (2, len(files[2].info), 1)
    assert report.failed == (f"an image of hash {content_hash(image)}: not found",)
    assert report.added == other.store.count() == len(files[0].info) + len(files[1].info)


def test_an_image_that_was_changed_is_not_taken(database, other, files, tmp_path):
    database.add(files[:2])
    Image.new("RGB", (64, 48), "red").save(tmp_path / "images" / "1.png")
    with pytest.warns(KnnSegWarning, match="other pixels now"):
        report = reembed(database.store, other)
    assert report.images == 1 and report.missing == len(files[1].info)


def test_one_of_several_places_of_an_image_is_enough(database, other, files, tmp_path):
    """The same picture, added without a place, from a place that is gone, and from where it is."""
    database.add_masks(files[2].image, np.ones((1, *files[2].image.shape[:2]), bool), ["all of it"])
    gone = tmp_path / "gone.png"
    for i, place in enumerate([gone.as_uri(), files[2].uri, gone.as_uri()]):
        mask = np.zeros((1, *files[2].image.shape[:2]), bool)
        mask[0, i : i + 5] = True
        database.add_masks(files[2].image, mask, [f"strip {i}"], uri=place)
    assert reembed(database.store, other) == ReembedReport(images=1, added=4)


def test_a_photograph_that_was_added_as_it_is_stored_is_found(database, other, files, tmp_path):
    path, exif = tmp_path / "images" / "1.png", Image.Exif()
    exif[0x0112] = 6  # viewers turn it
    Image.fromarray(files[1].image).save(path, exif=exif)
    database.add(files[1])
    report = reembed(database.store, other)
    assert report.images == 1 and not report.missing and set(rows(other)) == set(rows(database))


def test_nothing_to_do(database, other):
    assert reembed(database.store, other) == ReembedReport()


def test_mistakes(database, other, tmp_path):
    with pytest.raises(ConfigError, match="two embedding spaces"):
        reembed(database.store, database)
    with pytest.raises(ConfigError, match="at least 1"):
        reembed(database.store, other, batch=0)
    with pytest.raises(DatasetError, match="folder"):
        Originals(tmp_path / "nowhere")
    with (
        open_store(f"memory://{tmp_path}/else", StoreSpec(4, "cosine", {"label": str})) as plain,
        pytest.raises(SpecMismatchError, match="fields"),
    ):
        reembed(plain, other)


def test_stored_images_come_whole_whatever_the_batches_of_the_store(database, files, extractor):
    database.add(files)
    hashes = sorted(database.store.count_by("image_hash"))
    groups = list(stored_images(database.store, [*hashes, "none"], with_vectors=True, batch=4))
    assert [len(group) for group in groups] == [4, 2]
    by_hash = {content_hash(example.image): example for example in files}
    for image in (image for group in groups for image in group):
        example = by_hash[image.image_hash]
        assert image.uris == (example.uri,) and len(image.records) == len(example.info)
        masks = image.masks(image.with_mask.tolist(), example.segments.shape)
        expected = pool(extractor.extract([Picture(example.image)])[0], Masks.from_dense(masks.dense())).vectors
        np.testing.assert_allclose(image.records.vectors, expected, atol=1e-6)
    assert [i.image_hash for group in groups for i in group] == hashes


def test_an_example_added_from_a_path_knows_where_its_image_is(database, other, files, tmp_path, monkeypatch):
    path = tmp_path / "images" / "1.png"
    monkeypatch.chdir(tmp_path)
    for i, given in enumerate((path, str(path), "images/1.png")):
        mask = np.zeros((1, *files[1].image.shape[:2]), bool)
        mask[0, i : i + 5] = True
        database.add_masks(given, mask, [f"strip {i}"])
    assert dict(database.store.count_by("image")) == {path.as_uri(): 3}
    monkeypatch.chdir("/")
    assert reembed(database.store, other) == ReembedReport(images=1, added=3)


def test_an_image_that_was_renamed_is_found_by_its_pixels(database, other, files, tmp_path):
    """Among files of other pixels, one that is no picture, and one under the old name that shows something else."""
    database.add(files)
    moved = tmp_path / "moved"
    (tmp_path / "images").rename(moved)
    for path in list(moved.iterdir()):
        path.rename(path.with_stem(f"renamed {path.stem}"))
    (moved / "a.txt").write_text("no picture")
    Image.new("RGB", (64, 48)).save(moved / "2.png")
    report = reembed(database.store, other, Originals(moved))
    assert report.images == 6 and not report.missing and set(rows(other)) == set(rows(database))


def test_a_folder_is_read_once_however_many_images_are_looked_for(database, files, tmp_path, monkeypatch):
    from knnseg.database import originals

    database.add(files)
    (tmp_path / "images").rename(tmp_path / "moved")
    for path in list((tmp_path / "moved").iterdir()):
        path.rename(path.with_stem(f"renamed {path.stem}"))
    read, load = [], originals.load_image
    monkeypatch.setattr(originals, "load_image", lambda path, **how: read.append(path) or load(path, **how))
    finder = Originals(tmp_path / "moved")
    images = [
        image for group in stored_images(database.store, database.store.count_by("image_hash")) for image in group
    ]
    found = [finder.find(image) is not None for image in images]
    assert all(found) and len(read) <= 2 * (
        1 + 5 + 5
    )  # where it was; the five files, upright or not; those known by then


def test_what_is_not_found_has_a_reason_and_an_advice_that_helps(database, files, tmp_path):
    database.add(files[:3])
    (tmp_path / "images" / "1.png").write_bytes(b"no picture")
    (tmp_path / "images" / "2.png").unlink()
    (tmp_path / "empty").mkdir()
    hashes = [content_hash(example.image) for example in files[:3]]
    nowhere, somewhere = Originals(), Originals(tmp_path / "empty")
    ((first, second, third),) = stored_images(database.store, hashes)
    assert somewhere.find(first) is not None and somewhere.find(second) is None and somewhere.find(third) is None
    assert "1.png: expected an image" in nowhere.reason(second) and "2.png: not found" in nowhere.reason(third)
    assert nowhere.advice == "give the folder where the images are now (--images)"
    assert "no file below" in somewhere.advice and "add them again" in somewhere.advice


def test_an_example_under_another_id_is_not_brought_a_second_time(database, other, files):
    """Renamed in one space, added under the new name in the other."""
    database.add(files[0])
    database.rename("ball", "sphere")
    info = tuple(replace(s, label="sphere") if s.label == "ball" else s for s in files[0].info)
    other.add(replace(files[0], info=info))
    before = rows(other)
    report = reembed(database.store, other)
    assert (report.added, report.present) == (0, len(info)) and rows(other) == before
