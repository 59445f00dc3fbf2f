"""The page and its pictures: complete, self-contained, about the right images."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from knnseg import Segmenter, Vocabulary
from knnseg.evaluation import evaluate, settings_of
from knnseg.evaluation.page import choose, draw, write_page
from knnseg.evaluation.report import standings


class Page(HTMLParser):
    """Tags that are open at the end, references to elsewhere, pictures, and texts of cells."""

    def __init__(self, text):
        super().__init__()
        self.open, self.outside, self.pictures, self.cells = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href"):
                (self.pictures if value.startswith("data:image/jpeg;base64,") else self.outside).append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)


@pytest.fixture
def measured(segmenter, examples):
    return evaluate(segmenter, examples, examples.vocabulary)


def test_the_page(segmenter, examples, measured, tmp_path):
    settings = settings_of(segmenter, examples, examples.vocabulary, {"dataset": "<scenes>"})
    write_page(measured, segmenter, examples, settings, tmp_path / "report.html", pictures=2)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page, result = Page(text), measured.to_dict()
    chosen = standings(result, 2)
    shown = [*chosen.improved, *chosen.worst, *chosen.worsened]
    assert page.open == [] and page.outside == [] and len(page.pictures) == 4 * len(shown)
    assert not re.search(r"https?://|@import|url\(", text)
    assert "&lt;scenes&gt;" in text and "<scenes>" not in text
    rows = [cell for cell in page.cells if cell in examples.vocabulary.names]
    assert len(rows) == result["occurring"] and rows[0] == chosen.improved[0].name  # those that gain most first
    assert f"{100 * result['final']['miou']:.1f}" in page.cells and settings["store"]["fingerprint"] in text
    for standing in shown:
        assert f"<h3>{standing.name}: " in text
    for source in page.pictures:
        picture = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
        assert picture.size == (96, 96)


def test_without_a_database_there_is_nothing_to_compare(examples, tmp_path):
    with Segmenter.from_config("tiny") as alone:
        report = evaluate(alone, examples, examples.vocabulary, limit=2)
        settings = settings_of(alone, examples, examples.vocabulary)
        write_page(report, alone, examples, settings, tmp_path / "report.html", pictures=1)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(Page(text).pictures) == 3 and "Most improved" not in text and "gain" not in Page(text).cells
    assert "The first 2 of 6 images" in text


@pytest.mark.filterwarnings("ignore:classes")  # of those without an example
def test_a_configuration_that_knows_nothing_by_itself_has_a_page_too(scenes_folder, examples, tmp_path):
    file = tmp_path / "untaught.toml"
    file.write_text('preset = "tiny"\n[base]\nname = "none"\n[fusion]\nthreshold = 0.8\n[painting]\nunknown = true\n')
    with Segmenter.from_config(file, f"faiss://{scenes_folder}/store", create=False) as segmenter:
        report = evaluate(segmenter, examples, examples.vocabulary, limit=2)
        settings = settings_of(segmenter, examples, examples.vocabulary)
        write_page(report, segmenter, examples, settings, tmp_path / "report.html", pictures=1)
    assert len(Page((tmp_path / "report.html").read_text(encoding="utf-8")).pictures) >= 4


def test_the_image_of_a_class_is_where_most_happened(segmenter, examples, measured):
    names = examples.vocabulary.names
    for standing in standings(measured.to_dict(), 3).improved:
        c = names.index(standing.name)
        mended = []
        for example in examples:
            truth = example.semantic(names) == c
            valid = example.semantic(names) >= 0
            result = segmenter.predict(example.image, examples.vocabulary)
            from knnseg.evaluation.run import base_painting

            wrong = [
                int(((one == c) != truth)[valid].sum())
                for one in (base_painting(result, segmenter).semantic, result.semantic)
            ]
            mended.append((bool(truth.any()), wrong[0] - wrong[1]))
        chosen = choose(measured, standing.name, "improved")
        assert mended[chosen] == max(mended)


def test_large_images_are_made_small_and_the_class_in_question_comes_first(segmenter, examples, measured):
    from dataclasses import replace

    small = examples[0]
    large = replace(
        small, image=small.image.repeat(6, 0).repeat(5, 1), segments=small.segments.repeat(6, 0).repeat(5, 1)
    )
    name = small.info[-1].label
    picture = draw(segmenter, large, measured, name)
    assert (picture.width, picture.height) == (350, 420) and picture.legend[0][0] == name
    assert [panel.title for panel in picture.panels] == ["photograph", "truth", "base", "with retrieval"]
    truth = Image.open(io.BytesIO(base64.b64decode(picture.panels[1].source.partition(",")[2])))
    assert truth.size == (350, 420) and np.asarray(truth).std() > 5


def test_classes_that_never_occur_are_nobodys_worst(segmenter, examples):
    vocabulary = Vocabulary((*examples.vocabulary.names, "unicorn"), examples.vocabulary.things)
    result = evaluate(segmenter, examples, vocabulary, limit=2).to_dict()
    assert "unicorn" not in {s.name for s in standings(result, 99).worst}
