"""``benchmarks/continual.py``: what it measures is right, and the paper's claim on a few scenes and photographs."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from knnseg import Config, Image, Segmenter, Vocabulary
from knnseg.datasets import RenderedScenes
from knnseg.method.pooling import pool
from knnseg.stages.protocols import features_of, masks_of, scores_of

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def continual():
    """The module; it finds the others beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("continual")


@pytest.fixture(scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several threads on busy cores wait for one another
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def measured(continual, one_thread):
    return continual.measure("tiny", continual.Scenes(14, 1, 64), continual.Scenes(4, 2, 64), seeds=1, epochs=3)


def rows(measured, way):
    return [row for row in measured["rows"] if row["way"] == way]


def test_the_last_block_gives_the_keys_of_the_whole_network(continual):
    config = Config.preset("tiny")
    made = Segmenter.from_config(config)
    last = importlib.import_module("last_block").LastBlock(config, made.extractor)
    for scene in RenderedScenes(2, seed=3, size=(64, 80)):
        image = Image(scene.image)
        (masks,) = masks_of([image], made.proposer)
        halves = masks.select(np.arange(len(masks)) % 2 == 0), masks.select(np.arange(len(masks)) % 2 == 1)
        keys = last.look(image, *halves).keys(last.block).detach().numpy()
        whole = [pool(features_of([image], made.extractor)[0], half).vectors for half in halves]
        np.testing.assert_allclose(keys, np.concatenate(whole), atol=1e-5)


def test_a_base_that_is_asked_for_fewer_words(continual):
    among = importlib.import_module("continual_world").among
    made, scene = Segmenter.from_config("tiny"), RenderedScenes(1, seed=3, size=(64, 64))[0]
    image, names = Image(scene.image), continual.Scenes.vocabulary.names[:20]
    (masks,) = masks_of([image], made.proposer)
    every, few = (
        scores_of([image], [masks], Vocabulary(n), made.base)[0].probabilities for n in (names, names[4:16:3])
    )
    np.testing.assert_allclose(among(every, np.arange(4, 16, 3))[:, 4:16:3], few, atol=1e-4)
    # 0.2 goes to none of the words, and does so still when the second word is not asked for.
    np.testing.assert_allclose(among(np.float32([[0.5, 0.3, 0.0]]), np.array([0, 2])), [[5 / 7, 0, 0]], rtol=1e-6)


class Scripted:
    """Says what is written down, by the number of classes that are asked for."""

    def __init__(self):
        self.says = {}

    def scores(self, classes):
        return np.eye(3, dtype=np.float32)[self.says[len(classes)]]

    def stored(self):
        return 7


def test_measures_by_hand(continual):
    world = importlib.import_module("continual_world")
    pieces, truth = np.arange(4)[:, None], np.zeros((4, 3), np.float32)
    truth[[0, 1, 2, 3], [0, 0, 1, 2]] = [6, 2, 4, 8]  # pixels
    asked = world.Asked([], torch.zeros(4, 1), torch.zeros(4, 3), pieces, truth, [])
    made = world.World(Config.preset("tiny"), Vocabulary(("a", "b", "c")), [], asked, torch.nn.Identity(), None)
    order = [continual.Step(n, np.array([n]), []) for n in range(3)]
    course, way = continual.Course(made, order), Scripted()
    way.says = {1: [0, 0, 0, 0]}
    first = course.measure(way, 0)
    assert first["all"] == first["new"] == 100 and first["bytes"] == 7 and "old" not in first
    way.says = {1: [0, 0, 0, 0], 2: [0, 1, 1, 0]}
    second = course.measure(way, 1)
    assert (second["old"], second["new"]) == (75, pytest.approx(100 * 4 / 6))
    assert (second["backward"], second["forgetting"], second["changed"], second["moved"]) == (-25, 25, 0, 25)
    way.says = {2: [1, 1, 1, 0], 3: [2, 0, 1, 2]}
    third = course.measure(way, 2)
    assert third["groups"] == pytest.approx([25, 100, 100 * 8 / 14])
    assert third["backward"] == pytest.approx((-75 + 100 / 3) / 2)  # from 100 to 25, and from 66.7 to 100
    assert third["forgetting"] == pytest.approx((75 - 100 / 3) / 2)
    assert third["changed"] == pytest.approx(100 * 6 / 12)  # of old pixels, among a and b
    assert third["moved"] == pytest.approx(100 * 8 / 12)


def test_the_database_moves_no_old_pixel_and_training_does(measured):
    for way in ("ours", "ours with the base", "base", "class means"):
        assert [row["changed"] for row in rows(measured, way)[1:]] == [0, 0, 0]
    (check,) = rows(measured, "check")
    assert check["exact"] and check["compared"] == 12 and check["agree"] > 99
    for way in ("head", "head and block"):
        assert max(row["changed"] for row in rows(measured, way)[1:]) > 0


def test_every_way_takes_every_step(measured, continual):
    ways = ["base", "class means", "ours", "ours with the base", *continual.RECIPES]
    for way in ways:
        assert [row["step"] for row in rows(measured, way)] == [0, 1, 2, 3]
        assert all(0 <= row["all"] <= 100 and row["seconds"] >= 0 for row in rows(measured, way))
    assert [len(rows(measured, way)) for way in continual.JOINT] == [1, 1]
    budgets = [row["bytes"] for row in rows(measured, "ours")]
    heads = [row["bytes"] for row in rows(measured, "head")]
    kept = [row["bytes"] for row in rows(measured, "head, replay")]
    assert budgets == sorted(budgets) and heads == sorted(heads)
    assert all(0 < k - h <= b for k, h, b in zip(kept, heads, budgets, strict=True))
    assert rows(measured, "head and block")[0]["all"] == rows(measured, "head and block, LwF")[0]["all"]


def test_page_and_plot(measured, continual, tmp_path):
    page = importlib.import_module("continual_page")
    path = tmp_path / "page.md"
    continual.put(path, page.page({"tiny": measured}), "continual.py")
    path.write_text("before\n" + path.read_text() + "\nafter")
    continual.put(path, page.page({"tiny": measured | {"rows": measured["rows"]}}), "continual.py")
    text = path.read_text()
    assert text.startswith("before\n<!--") and text.endswith("\nafter") and text.count("### tiny") == 1
    assert all(f"| {way} | " in text for way in ["ours with the base", *continual.RECIPES, *continual.JOINT])
    assert "stayed the same to the bit" in text
    page.picture(measured["rows"], "tiny", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_photographs(continual, one_thread, real_folder):
    """A part of what the command measures, whose figures are on the page "Nothing is forgotten"."""
    reference, query = (continual.photographs(real_folder, half) for half in ("reference", "query"))
    found = continual.measure("msrc", reference[::8], query[::24], seeds=1, epochs=4)
    last = {way: rows(found, way)[-1] for way in ("base", "ours", "head", "head and block")}
    print({way: {k: v for k, v in row.items() if k != "groups"} for way, row in last.items()})
    assert [row["changed"] for way in ("ours", "ours with the base") for row in rows(found, way)[1:]] == [0] * 6
    (check,) = rows(found, "check")
    assert check["exact"] and check["agree"] > 99
    assert last["head"]["all"] < last["ours"]["all"] - 10
    assert last["head and block"]["all"] < last["base"]["all"]
    for way in ("head", "head and block"):  # measured: 34 and 28 points, and 5
        assert last[way]["forgetting"] > last["ours"]["forgetting"] + 10
