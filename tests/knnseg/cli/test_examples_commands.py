"""``knnseg examples`` and the corrections below ``knnseg concepts``: none of them needs a model."""

import json

import numpy as np
import PIL.Image
import pytest
from typer.testing import CliRunner

from knnseg import ConceptDatabase
from knnseg.cli.commands import app


@pytest.fixture
def there(tmp_path, extractor):
    """A database on disk with four files of one example each; its URL, and the ids."""
    url, ids = f"faiss://{tmp_path}/db", []
    with ConceptDatabase.open(url, extractor) as database:
        for n, label in enumerate(["kettle", "kettle", "pot, pan", "ball"]):
            path = tmp_path / f"photo {n}.png"
            PIL.Image.fromarray(np.full((60, 90, 3), 60 + 50 * n, np.uint8)).save(path)
            mask = np.zeros((1, 60, 90), bool)
            mask[0, 20:40, 30:50] = True
            ids += database.add_masks(path, mask, [label], things=[], writer="ann" if n else "bob").ids
    return url, ids


def listed(run, url, *options):
    return [one["id"] for one in json.loads(run("examples", "list", "-s", url, *options, "--json").stdout)]


def size(path):
    with PIL.Image.open(path) as picture:
        return picture.size


def test_list(there, run, tmp_path):
    url, ids = there
    assert listed(run, url) == ids[::-1] and listed(run, url, "--limit", 1) == ids[3:]
    assert listed(run, url, "--concept", "pot, pan") == ids[2:3] and listed(run, url, "--writer", "bob") == ids[:1]
    assert listed(run, url, "--image", tmp_path / "photo 1.png") == ids[1:2]
    assert listed(run, url, "--since", "2020-01-01") == ids[::-1] and listed(run, url, "--since", "2999-01-01") == []
    table = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["examples", "list", "-s", url, "--limit", "3"]).stdout
    assert max(map(len, table.splitlines())) <= 80 and "the newest 3; --limit shows more" in table
    assert all(text in table for text in (ids[3][:10], "pot, pan", "photo 2.png", "ann"))


def test_show_and_sheet(there, run, tmp_path):
    url, ids = there
    said = json.loads(run("examples", "show", ids[2][:8], "-s", url, "-o", tmp_path / "one.png", "--json").stdout)
    assert said["id"] == ids[2] and said["concept"] == "pot, pan" and said["box"] == [30, 20, 50, 40]
    assert size(tmp_path / "one.png") == (512, 512)
    assert f"id: {ids[2]}" in run("examples", "show", ids[2], "-s", url, "-o", tmp_path / "one.png").stdout
    said = run("concepts", "sheet", "kettle", "-s", url, "-o", tmp_path / "sheet.png", "--limit", 1).stdout
    assert "kettle: the newest 1 of 2" in said and size(tmp_path / "sheet.png") == (216, 284)
    (tmp_path / "photo 2.png").unlink()
    refused = CliRunner().invoke(app, ["examples", "show", ids[2], "-s", url])
    assert "photo%202.png: not found; give the folder" in str(refused.exception)


def test_relabel_delete_and_undo(there, run, tmp_path):
    url, ids = there
    assert run("examples", "relabel", ids[0][:8], "-s", url, "--to", "pot, pan").stdout == (
        "moved to 'pot, pan': 1 example\n"
    )
    refused = CliRunner().invoke(app, ["examples", "delete", ids[1], "-s", url], input="n\n")
    assert refused.exit_code == 1 and "Delete 1 example from" in refused.stderr and len(listed(run, url)) == 4
    deleted = run("examples", "delete", "--writer", "ann", "--concept", "ball", "-s", url, "--yes", "--json").stdout
    assert json.loads(deleted) == {"deleted": 1} and listed(run, url) == ids[2::-1]
    run("examples", "delete", "-s", url, "--yes", code=2)
    made = json.loads(run("concepts", "history", "-s", url, "--json").stdout)
    assert [one["what"] for one in made] == ["examples deleted", "examples moved to 'pot, pan'"]
    assert "examples deleted" in run("concepts", "history", "-s", url, "--limit", 1).stdout
    assert "undone: " in run("concepts", "undo", made[0]["number"], "-s", url).stdout and len(listed(run, url)) == 4
    run("examples", "delete", ids[3], "-s", url, "--yes")
    assert json.loads(run("concepts", "purge", "-s", url, "--yes", "--json").stdout) == {"purged": 1}
    run("concepts", "rename", "kettle", "a, b", "-s", url)
    assert "kettle" in run("concepts", "list", "-s", url).stdout
    run("concepts", "rename", "a, b", "c", "-s", url)
    assert '"a, b", kettle' in run("concepts", "list", "-s", url).stdout
