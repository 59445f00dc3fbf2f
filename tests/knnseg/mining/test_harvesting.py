"""Images of which only the names are known: what they share is found, shown and added; the rest is dropped and said."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import knnseg
from knnseg import ConceptDatabase
from knnseg.config import PaintingConfig
from knnseg.data.scores import ClassScores
from knnseg.errors import ConfigError, DatasetError
from knnseg.mining.harvesting import harvest
from knnseg.mining.sharing import beliefs, sampled
from knnseg.mining.sources import NamedImage, open_named
from knnseg.models.base import NoBase
from knnseg.stages.registry import _registry

NAMES = ("sky", "grass", "sand", "ball", "kettle")


@pytest.fixture
def scenes(scene):
    """Each of two grounds under the sky, with a ball or a kettle."""
    grounds, things = ("grass", "sand"), ("ball", "kettle")
    return {f"{i}": scene(i, ("sky", grounds[i % 2], things[i // 2 % 2])) for i in range(12)}


@pytest.fixture
def table(tmp_path, scenes):
    """A CSV file that says of every photograph what is in it."""
    (tmp_path / "photos").mkdir()
    lines = ["image,name"]
    for stem, scene in scenes.items():
        Image.fromarray(scene.image).save(tmp_path / "photos" / f"{stem}.png")
        lines += [f'photos/{stem}.png," {segment.label}"' for segment in scene.info]
    (tmp_path / "names.csv").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path / "names.csv"


@pytest.fixture
def segmenter(extractor, make_segmenter, tmp_path):
    with ConceptDatabase.open(f"memory://{tmp_path}/harvest", extractor) as database:
        made = make_segmenter(database, base=NoBase())
        made.config = replace(made.config, painting=PaintingConfig(unknown=True))
        yield made


def test_what_is_shared_is_what_a_name_means():
    rng = np.random.default_rng(0)
    sheep, grass, sky = np.eye(8, dtype=np.float32)[:3]

    def near(*centres):
        rows = np.repeat(np.stack(centres), 4, axis=0) + rng.normal(0, 0.05, (4 * len(centres), 8))
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    # sheep only ever with grass, grass also without; the last image shows neither
    vectors = [near(sheep, grass), near(sheep, grass), near(grass, sky), near(grass, sky), near(sky, sky)]
    shown = np.array([[True, True], [True, True], [False, True], [False, True], [False, False]])
    found = beliefs(vectors, [sampled(np.ones(8), i) for i in range(5)], shown)
    assert found[0].names.argmax(1).tolist() == [0] * 4 + [1] * 4
    assert found[2].shared[:4].min() > 0.9 and found[2].shared[4:].max() < 0.5, "sky is what an image of no name shows"
    assert found[4].names.shape == (8, 0)


def test_names_alone_teach(segmenter, table, scenes, tmp_path):
    found = harvest(segmenter, open_named(str(table)), tmp_path / "out", things=["ball", "kettle"])
    assert (
        found.images == 12
        and not found.failed
        and len(found.kept) + len(found.dropped) == sum(len(s.info) for s in scenes.values())
    )
    assert len(found.kept) >= 30
    right = [(scenes[k.region.image.stem].semantic([k.name]) == 0)[k.region.mask()].mean() for k in found.kept]
    assert np.mean(right) > 0.9, np.round(right, 2)
    assert segmenter.database.add(found.labelled()).added == len(found.kept)
    kinds = {c.label: c.thing for c in segmenter.database.concepts()}
    assert kinds.keys() >= {"sky", "grass", "sand", "ball"} and kinds["ball"] and not kinds["sky"]
    page = (tmp_path / "out" / "harvest.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == len(found.kept) + len(found.dropped) and "http" not in page


def test_what_is_dropped_is_said(segmenter, table, tmp_path):
    found = harvest(segmenter, open_named(str(table), ["ball", "sky"]), tmp_path, margin=1.0)
    assert {d.name for d in found.dropped} <= {"ball", "sky"} and all("shared" in d.reason for d in found.dropped)

    class Contrary:
        branches = ("final",)

        def predict(self, images, masks, vocabulary):
            first = np.eye(len(vocabulary), dtype=np.float32)[0]
            return [ClassScores(np.tile(first, (len(own), 1)), vocabulary.names) for own in masks]

    segmenter.base = Contrary()
    found = harvest(segmenter, open_named(str(table)), tmp_path)
    assert {k.name for k in found.kept} == {"ball"}
    assert {d.reason for d in found.dropped if d.name == "sky"} == {"the base takes it for ball"}
    assert len(harvest(segmenter, open_named(str(table)), tmp_path, ask_base=False).kept) > len(found.kept)
    with pytest.raises(ConfigError, match="at least two images"):
        harvest(segmenter, [], tmp_path)
    nothing = harvest(segmenter, open_named(str(table)), tmp_path, least=1.0)
    with pytest.raises(DatasetError, match="got nothing"):
        nothing.labelled()


def test_sources(table, tmp_path, scenes, monkeypatch):
    assert {n for one in open_named(str(table)) for n in one.names} == set(NAMES)
    assert {n for one in open_named(str(table), [" ball"]) for n in one.names} == {"ball"}
    kinds = tmp_path / "kinds"
    for name in ("a <b>", "c"):
        (kinds / name).mkdir(parents=True)
        (kinds / name / "1.png").write_bytes((tmp_path / "photos" / "0.png").read_bytes())
    assert [(one.image.parent.name, one.names) for one in open_named(str(kinds))] == [
        ("a <b>", ("a <b>",)),
        ("c", ("c",)),
    ]
    (kinds / "other.png").write_bytes(b"")
    assert list(open_named(str(kinds)))[-1] == NamedImage(kinds / "other.png")
    for text, wrong in (
        ("picture,label\n", "columns image and name"),
        ("image,name\n", "at least one image"),
        ("image,name\n,x\n", "line 2"),
    ):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(DatasetError, match=wrong):
            list(open_named(str(tmp_path / "bad.csv")))
    with pytest.raises(DatasetError, match="a folder for each name, got none inside"):
        list(open_named(str(tmp_path / "photos")))
    with pytest.raises(DatasetError, match="none is registered"):
        list(open_named("web"))


def test_a_plugin_brings_images_as_bytes(segmenter, scenes, tmp_path):
    asked = []

    def remembered(*, names):
        asked.append(names)
        for scene in scenes.values():
            file = io.BytesIO()
            Image.fromarray(scene.image).save(file, "PNG")
            yield NamedImage(file.getvalue(), tuple(s.label for s in scene.info))
        yield NamedImage(b"nothing", ("sky",))

    class Plugin:
        @knnseg.hookimpl
        def knnseg_register(self, register):
            register("named_images", "memories", remembered)

    knnseg.register(Plugin())
    try:
        found = harvest(segmenter, open_named("memories", ["sky", "grass"]), tmp_path)
    finally:
        del _registry().factories["named_images", "memories"]
    assert asked == [["sky", "grass"]] and len(found.failed) == 1
    assert {k.region.image.parent for k in found.kept} == {tmp_path / "images"}
    assert segmenter.database.add(found.labelled()).added == len(found.kept) > 10


def test_the_command(table, tmp_path, run):
    (tmp_path / "wanted.txt").write_text("sky\ngrass\nball\n")
    common = [
        "--images",
        table,
        "--names",
        tmp_path / "wanted.txt",
        "-p",
        "tiny",
        "--ignore-base",
        "-o",
        tmp_path / "out",
        "--json",
    ]
    found = json.loads(run("harvest", *common, "-s", f"faiss://{tmp_path}/db").stdout)
    assert found["images"] == 12 and set(found["names"]) == {"sky", "grass", "ball"}
    listed = json.loads(run("concepts", "list", "-s", f"faiss://{tmp_path}/db", "--json").stdout)
    assert {c["label"]: c["count"] for c in listed} == {n: c["kept"] for n, c in found["names"].items() if c["kept"]}
