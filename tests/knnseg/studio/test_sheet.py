"""The evidence as one file, and the browser that the tests of the page want."""

import re

import pytest
from PIL import Image

from knnseg.studio.sheet import write_sheet
from tests.knnseg.studio import browser


def test_everything_is_in_one_file(database, make_segmenter, scene, tmp_path):
    """Scores, voters with pictures, who and when; names are text; one photograph has moved, one is gone. All four examples vote."""
    name = "<img src=x onerror=alert(1)>"
    for seed, there in ((1, "moved"), (2, "gone")):
        example = scene(seed, ("sky", "grass"))
        masks = [example.segments == s.id for s in example.info]
        Image.fromarray(example.image).save(tmp_path / f"{there}.png")
        database.add_masks(tmp_path / f"{there}.png", masks, ["sky", name], writer="ada")
    (tmp_path / "below").mkdir()
    (tmp_path / "moved.png").rename(tmp_path / "below" / "moved.png")
    (tmp_path / "gone.png").unlink()
    segmenter = make_segmenter(database)
    result = segmenter.predict(scene(3, ("sky", "grass")).image)
    assert write_sheet(segmenter, result, tmp_path / "sheet.html", images=tmp_path / "below") == 2
    page = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page and "&lt;img src=x onerror=alert(1)&gt;" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page) and "<script" not in page
    assert page.count("its photograph is not where it was") == 4
    assert page.count("by ada, 20") == 8 and page.count("of the votes") == 8 and "gone.png" in page
    for heading in ("base", "retrieved", "final"):
        assert f'<th scope="col">{heading}</th>' in page


def test_the_command(run, tmp_path, scene):
    Image.fromarray(scene(1).image).save(tmp_path / "scene.png")
    said = run("explain", tmp_path / "scene.png", "-c", "sky,grass,ball", "--out", tmp_path / "x.html").output
    assert " explained: " in said and "No example voted." in (tmp_path / "x.html").read_text(encoding="utf-8")
    run("explain", tmp_path / "scene.png", code=2)


def test_a_browser_that_is_required_is_not_skipped(monkeypatch):
    monkeypatch.delenv("KNNSEG_CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("KNNSEG_REQUIRE", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no browser"):
        browser.chromium()
    monkeypatch.setenv("KNNSEG_REQUIRE", "chromium")
    with pytest.raises(pytest.fail.Exception, match="no browser"):
        browser.chromium()
