"""What counts as a file of a folder, and what is an error because it could be either."""

import pytest

from knnseg.data.listing import IMAGES, LABEL_MAPS, images_of, listed
from knnseg.errors import DatasetError


def made(folder, *names):
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def test_endings_of_any_case_and_no_hidden_files(tmp_path):
    made(tmp_path, "b.JPG", "a.PNG", "c.Tiff", "._a.png", ".hidden.jpg", ".DS_Store", "notes.txt", "Thumbs.db")
    (tmp_path / "folder.png").mkdir()
    found = listed(tmp_path, IMAGES)
    assert list(found.files) == ["a", "b", "c"] and found.files["b"] == str(tmp_path / "b.JPG")
    assert found.others == ("Thumbs.db", "notes.txt")
    assert list(listed(tmp_path, LABEL_MAPS).files) == ["a", "c"]


def test_an_ending_may_be_more_than_a_suffix(tmp_path):
    made(tmp_path, "x_labelIds.png", "y_LABELIDS.png", "x_color.png", "z.v2.jpg")
    assert list(listed(tmp_path, ["_labelids.png"]).files) == ["x", "y"]
    assert list(listed(tmp_path, [".jpg"]).files) == ["z.v2"]
    assert list(listed(tmp_path, [""]).files) == ["x_color.png", "x_labelIds.png", "y_LABELIDS.png", "z.v2.jpg"]


@pytest.mark.parametrize("names", [("b.jpg", "b.png"), ("b.JPG", "b.jpg"), ("b.jpeg", "b.jpg")])
def test_two_files_of_one_stem_are_named(tmp_path, names):
    made(tmp_path, *names)
    with pytest.raises(DatasetError, match=rf"one file for b, got {names[0]} and {names[1]}"):
        listed(tmp_path, IMAGES)


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(DatasetError, match="expected a folder"):
        listed(tmp_path / "nothing", IMAGES)


def test_images_of_paths_and_folders(tmp_path):
    (tmp_path / "b" / "inside").mkdir(parents=True)
    names = ["b/2.PNG", "b/1.jpg", "b/._1.jpg", "b/notes.txt", "b/inside/3.png", "a.jpg"]
    for name in names:
        (tmp_path / name).touch()
    found = images_of([tmp_path / "a.jpg", tmp_path / "b", tmp_path / "b" / "1.jpg", tmp_path / "missing.png"])
    assert [str(path.relative_to(tmp_path)) for path in found] == ["a.jpg", "b/1.jpg", "b/2.PNG", "missing.png"]
    (tmp_path / "empty").mkdir()  # is left to whoever reads it
    assert images_of([tmp_path / "empty", f"{tmp_path}/*.tif"]) == [tmp_path / "empty", tmp_path / "*.tif"]


def test_images_of_patterns(tmp_path):
    (tmp_path / "b" / "c.png").mkdir(parents=True)
    for name in ("b/2.PNG", "b/1.jpg", "b/.1.jpg", "b/notes.txt", "b/c.png/3.png", "a.jpg", "[x].jpg"):
        (tmp_path / name).touch()

    def found(pattern):
        return [path.relative_to(tmp_path).as_posix() for path in images_of([f"{tmp_path}/{pattern}"])]

    assert found("b/*") == ["b/1.jpg", "b/2.PNG"] and found("b/[2-9].*") == ["b/2.PNG"]
    assert found("**/*.png") == ["b/c.png/3.png"] and found("[x].jpg") == ["[x].jpg"]
