"""Unknown regions of rendered scenes: found, clustered, shown, named and then known."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from knnseg import ConceptDatabase
from knnseg.config import PaintingConfig
from knnseg.errors import ConfigError, DatasetError, ImageError, VocabularyError
from knnseg.mining.clustering import clusters
from knnseg.mining.discovering import discover, named, read_names, save
from knnseg.models.base import NoBase

NAMES = ("sky", "grass", "ball", "coal", "kettle")


@pytest.fixture
def photos(tmp_path, scene):
    """Files, and what is in them."""
    folder = tmp_path / "photos <b>"
    folder.mkdir()
    scenes = {f"{i}": scene(i, ("sky", "grass", "coal", "kettle" if i % 2 else "ball")) for i in range(60, 66)}
    for stem, one in scenes.items():
        Image.fromarray(one.image).save(folder / f"{stem}.png")
    return sorted(folder.glob("*.png")), scenes


@pytest.fixture
def segmenter(extractor, make_segmenter, scene, tmp_path):
    """It knows sky, grass and balls, and has no base."""
    with ConceptDatabase.open(f"memory://{tmp_path}/known", extractor) as database:
        database.add(scene(i) for i in range(6))
        made = make_segmenter(database, base=NoBase(), threshold=0.9)
        made.config = replace(made.config, painting=PaintingConfig(unknown=True))
        yield made


@pytest.fixture
def found(segmenter, photos):
    return discover(segmenter, photos[0])


def test_clusters_are_in_order_of_area_and_members_of_likeness():
    a, b = np.eye(4, dtype=np.float32)[:2]
    between = (a + 0.2 * b) / np.linalg.norm(a + 0.2 * b)
    vectors = np.stack([b, between, a, a])
    groups = clusters(vectors, np.array([9.0, 1, 1, 2]), 0.5)
    assert [g.tolist() for g in groups] == [[0], [2, 3, 1]]
    assert [g.tolist() for g in clusters(vectors, np.array([1.0, 1, 1, 2]), 0.5)] == [[2, 3, 1], [0]]
    # The two largest are compared, the others follow them.
    assert [g.tolist() for g in clusters(vectors, np.array([9.0, 1, 1, 2]), 0.5, most=2)] == [[0], [2, 3, 1]]
    assert clusters(np.zeros((0, 4), np.float32), np.zeros(0), 0.5) == []


def test_what_was_not_taught_is_found(found, photos):
    assert found.images == 6 and not found.failed
    assert [cluster.number for cluster in found.clusters] == [*range(1, len(found.clusters) + 1)]
    areas = [cluster.area for cluster in found.clusters]
    assert areas == sorted(areas, reverse=True)
    shown = []
    for cluster in found.clusters[:2]:
        pixels = np.concatenate([photos[1][r.image.stem].semantic(NAMES)[r.mask()] for r in cluster.regions])
        values, counts = np.unique(pixels, return_counts=True)
        shown.append((NAMES[values[counts.argmax()]], counts.max() / counts.sum()))
    assert [name for name, _ in shown] == ["coal", "kettle"] and shown[0][1] > 0.8, shown
    assert found.clusters[0].images == 6


def test_a_page_and_a_file_show_it(found, tmp_path):
    page = save(found, tmp_path / "out").read_text(encoding="utf-8")
    assert "photos &lt;b&gt;" in page and "<b>" not in page and "http" not in page
    assert page.count("data-region=") == sum(len(cluster.regions) for cluster in found.clusters)
    document = json.loads((tmp_path / "out" / "regions.json").read_text())
    assert len(document["categories"]) == len(found.clusters)


def test_naming_a_cluster_adds_it(found, segmenter, tmp_path, photos):
    save(found, tmp_path)
    first, second = found.clusters[:2]
    labelled = named(tmp_path, {1: "slag", 2: "ladle"}, leave_out=[second.regions[-1].id], things=["ladle"])
    assert set(labelled.vocabulary) == {"slag", "ladle"} and labelled.vocabulary.things == {"ladle"}
    report = segmenter.database.add(labelled)
    assert report.added == len(first.regions) + len(second.regions) - 1
    assert {c.label for c in segmenter.database.concepts() if c.thing} == {"ball", "ladle"}
    result = segmenter.predict(photos[1]["60"].image)
    assert (result.semantic == [*result.vocabulary].index("slag")).sum() > 0.9 * (
        photos[1]["60"].semantic(["coal"]) == 0
    ).sum()
    assert discover(segmenter, photos[0]).clusters[:1] != found.clusters[:1], "it is known now"


def test_mistakes_are_said(found, segmenter, make_segmenter, tmp_path, photos):
    save(found, tmp_path)
    with pytest.raises(DatasetError, match=f"expected the number of a cluster, 1 to {len(found.clusters)}, got 99"):
        named(tmp_path, {99: "kettle"})
    with pytest.raises(VocabularyError):
        named(tmp_path, {1: " "})
    with pytest.raises(ConfigError, match=r"\[painting\] unknown = true"):
        discover(make_segmenter(segmenter.database), photos[0])
    (tmp_path / "names.json").write_text('{"names": {"one": "kettle"}}')
    with pytest.raises(DatasetError, match="expected a whole number"):
        read_names(tmp_path / "names.json")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    left = discover(segmenter, [photos[0][0], broken])
    assert left.images == 1 and "broken.png" in left.failed[0]
    with pytest.raises(ImageError, match=r"broken\.png"):
        discover(segmenter, [broken], strict=True)


def test_the_command(photos, tmp_path, run):
    (tmp_path / "photo.toml").write_text(
        'preset = "tiny"\n[base]\nname = "none"\n[fusion]\nthreshold = 0.8\n[painting]\nunknown = true\n'
    )
    (first, second, *_), scenes = photos
    common = ["-s", f"faiss://{tmp_path}/db", "-p", tmp_path / "photo.toml", "--json"]
    Image.fromarray((scenes["60"].semantic(["sky"]) + 1).astype(np.uint8)).save(tmp_path / "mask.png")
    run("add", *common, first, "--mask", tmp_path / "mask.png", "--label", "sky")
    out = ["-o", tmp_path / "out"]
    found = json.loads(run("discover", *common, first, second, *out).stdout)
    assert found["images"] == 2 and found["clusters"] and found["page"] == str(tmp_path / "out" / "discover.html")
    added = json.loads(run("discover", *common, *out, "--name", "1=a, b", "--thing").stdout)
    assert added["added"] == found["clusters"][0]["regions"]
    (tmp_path / "names.json").write_text(json.dumps({"names": {"1": "a, b"}, "leave_out": []}))
    again = json.loads(run("discover", *common, *out, "--names", tmp_path / "names.json").stdout)
    assert again["added"] == 0 and again["present"] == added["added"]
    assert "--name" in run("discover", *common, *out, "--name", "kettle", code=2).output
    assert "give images" in run("discover", *common, code=2).output
