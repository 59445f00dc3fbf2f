"""Moving house all the way round, and the same picture in every house.

FAISS -> Parquet -> Milvus (a real server) -> Qdrant edge -> FAISS: what comes home is bit for bit what left.
"""

import json
import uuid

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import knnstore
from knnseg.cli.commands import app as knnseg_app
from knnseg.datasets import RenderedScenes
from knnstore._commands import app as knnstore_app
from knnstore.testing.servers import below, remove
from knnstore.transfer import content_checksum

pytestmark = pytest.mark.server
runner = CliRunner()


def run(app, *arguments):
    result = runner.invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A concept database in FAISS, made from rendered scenes, and a photograph that it has not seen."""
    root = tmp_path_factory.mktemp("chain")
    scenes = RenderedScenes(7, seed=5, size=(96, 96), including=["kettle", "lava"])
    names = list(scenes.classes)
    for kind in ("images", "labels"):
        (root / kind).mkdir()
    for i in range(6):
        Image.fromarray(scenes[i].image).save(root / "images" / f"{i}.png")
        Image.fromarray((scenes[i].semantic(names) + 1).astype(np.uint8)).save(root / "labels" / f"{i}.png")
    Image.fromarray(scenes[6].image).save(root / "new.png")
    classes = [{"id": i, "name": n, "isthing": n in scenes.thing_classes} for i, n in enumerate(names, 1)]
    (root / "classes.json").write_text(json.dumps(classes))
    pairs = ["--pairs", root / "images", root / "labels", "--class-file", root / "classes.json"]
    run(knnseg_app, "add", "--store", f"faiss://{root}/first", *pairs, "--json")
    return root


def contents(url):
    """Everything at a URL, and below it: name of the collection -> checksum, count, spec, records in order of id."""
    found = {}
    for place in knnstore.collections(url):
        with knnstore.open_store(place, read_only=True) as store:
            batches = list(store.scan(with_vectors=True))
            if not batches:  # the changes of a database in which nothing was renamed
                found[place.path.rpartition("/")[2]] = (content_checksum(store), 0, store.spec)
                continue
            order = np.argsort(np.concatenate([batch.ids for batch in batches]))
            vectors = np.concatenate([batch.vectors for batch in batches])[order]
            found[place.path.rpartition("/")[2]] = (
                content_checksum(store), store.count(), store.spec, vectors.tobytes(),
                {name: np.concatenate([b.fields[name] for b in batches])[order].tolist() for name in store.spec.fields},
            )  # fmt: skip
    return found


def picture(url, root, out):
    """What ``knnseg segment`` writes: the semantic and the panoptic map, and the segments with their scores."""
    run(knnseg_app, "segment", root / "new.png", "--store", url, "--out", out, "--json")
    return {name: (out / name / "new.png").read_bytes() for name in ("semantic", "panoptic", "overlay")}


@pytest.fixture
def milvus(milvus_url):
    place = below(milvus_url, f"default/chain_{uuid.uuid4().hex[:8]}", index="FLAT")
    yield place
    remove(place)


def test_round_trip(folder, milvus, tmp_path):
    first = f"faiss://{folder}/first"
    edge = f"qdrant+edge://{tmp_path}/edge?exact=1"
    last = f"faiss://{tmp_path}/last"

    run(knnstore_app, "export", first, tmp_path / "parquet")
    run(knnstore_app, "import", tmp_path / "parquet", milvus)
    run(knnstore_app, "copy", milvus, edge)
    run(knnstore_app, "copy", edge, last)

    left = contents(first)
    assert any(left) and all(count > 10 for name, (_, count, *_) in left.items() if name != "concept-changes")
    for url in (milvus, edge, last):
        assert contents(url) == left, url

    wanted = picture(first, folder, tmp_path / "first")
    assert len(Image.open(folder / "new.png").getcolors(100_000)) > 10
    for i, url in enumerate((milvus, edge, last)):
        assert picture(url, folder, tmp_path / f"picture {i}") == wanted, url
