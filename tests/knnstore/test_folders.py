"""Collections in folders: which folder a URL names, and what is found there."""

import pytest

from knnstore.errors import InvalidURLError
from knnstore.folders import collections_in, folder_of, write_whole
from knnstore.url import StoreURL


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mine+disk://host/data", r"three slashes before an absolute folder, mine\+disk:///folder"),
        ("mine:///", "a folder, such as mine:///data/concepts"),
        ("mine:///a%00b", "NUL"),
    ],
)
def test_a_url_names_a_folder_or_is_refused(url, said):
    assert str(folder_of(StoreURL.parse("mine:////data//x"))) == "/data/x"
    with pytest.raises(InvalidURLError, match=said):
        folder_of(StoreURL.parse(url))


def test_collections_are_found_at_a_folder_and_right_below_it(tmp_path):
    for name in ("b", "a", "a/deeper", "none"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mark").touch()
    (tmp_path / "none" / "mark").unlink()
    (tmp_path / "file").touch()
    url = StoreURL.parse(f"mine://{tmp_path}")
    found = collections_in(url, lambda folder: (folder / "mark").is_file())
    assert found == [url.child("a"), url.child("b")]
    assert collections_in(url.child("a"), lambda folder: (folder / "mark").is_file())[0] == url.child("a")
    assert collections_in(url.child("nowhere"), lambda _: True) == []


def test_a_file_is_written_in_one_piece(tmp_path):
    path = tmp_path / "a.json"
    write_whole(path, b"old")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new" and [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
