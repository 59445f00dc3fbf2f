"""Label Studio takes our predictions, asks our backend, teaches it, and still writes what its reader is tested on."""

import io
import json
import re
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from knnseg import Vocabulary
from knnseg.datasets import open_annotations
from knnseg.export import Export
from knnseg.export.label_studio import LabelConfig, local_file
from knnseg.export.label_studio import task as task_of
from knnseg.integrations.label_studio.backend import Backend
from knnseg.integrations.label_studio.client import Client
from knnseg.integrations.label_studio.server import Listener

pytestmark = [pytest.mark.tools, pytest.mark.timeout(1200)]

KEPT = Path(__file__).parents[1] / "knnseg" / "datasets" / "formats" / "files"
NAMES = ["sky", "grass", "ball"]


def png(pixels):
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()


@pytest.mark.parametrize("kind", ["brush", "polygon", "rectangle"])
def test_predictions_are_imported_accepted_and_exported_unchanged(label_studio, segmenter, scenes, tmp_path, kind):
    segmenter.database.add([scenes.make_scene(i) for i in range(3)])
    folder = label_studio.files / kind
    folder.mkdir(exist_ok=True)
    Image.fromarray(scenes.make_scene(7).image).save(folder / "a photo.png")
    config = LabelConfig.of(Vocabulary.of(NAMES), kind)
    project = label_studio.project(config.xml)
    storage = {"project": project, "title": "files", "path": str(folder), "use_blob_urls": True}
    label_studio.call("POST", "/api/storages/localfiles", json=storage)

    results = list(segmenter.stream([folder / "a photo.png"], NAMES))
    if kind == "brush":
        with Export(tmp_path, ["label-studio"], images=label_studio.files) as export:
            export.write(results[0])
        assert LabelConfig.parse((tmp_path / "label-studio.xml").read_text()) == config
        tasks = json.loads((tmp_path / "label-studio.json").read_text())
    else:
        tasks = [task_of(results[0], config, local_file(f"{kind}/a photo.png"))]
    (task,) = label_studio.upload(project, "tasks.json", json.dumps(tasks).encode())
    (read,) = label_studio.task(task["id"])["predictions"]
    (written,) = tasks[0]["predictions"]
    assert read["model_version"] == "knnseg" and read["score"] == pytest.approx(written["score"])
    assert [r["value"] for r in read["result"]] == [r["value"] for r in written["result"]]
    label_studio.annotate(task["id"], read["result"])  # as its page does when somebody submits what was predicted
    exported = tmp_path / "export.json"
    exported.write_bytes(label_studio.export(project))
    example = open_annotations(exported, label_studio.files)[0]
    expected, found = np.where(results[0].panoptic > 0, results[0].semantic, -1), example.semantic(NAMES)
    if kind == "brush":
        assert np.array_equal(found, expected)
    elif kind == "polygon":
        assert (found == expected).mean() > 0.9
    assert {s.label for s in example.info} == {s.label for s in results[0].segments_info}
    # And the backend gets the image from it, whichever way.
    stored = label_studio.task(task["id"])["data"]["image"]
    for files in (None, label_studio.files):
        client = Client(label_studio.url, label_studio.token, files=files)
        image, place = client.image(stored)
        assert place.startswith("file:") is (files is not None)
        assert np.array_equal(np.asarray(Image.open(image if files else io.BytesIO(image))), results[0].image)
        client.close()


@pytest.fixture
def connected(label_studio, segmenter):
    """A backend that listens with a password, and a project that is connected to it."""
    client = Client(label_studio.url, label_studio.token)
    backend, listener = Backend(segmenter, client, name="test"), Listener("127.0.0.1", 0, "me:secret")
    server = listener.server(backend)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener._socket]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    xml = LabelConfig.of(Vocabulary.of(NAMES), "polygon").xml
    project = label_studio.project(xml)
    login = {"auth_method": "BASIC_AUTH", "basic_auth_user": "me", "basic_auth_pass": "secret"}
    made = label_studio.call(
        "POST", "/api/ml", json={"project": project, "url": listener.url, "title": "knnseg", **login}
    )
    assert made["readable_state"] == "Connected" and made["model_version"] == backend.version, made
    # Label Studio gives the password to everything but its notices, which take it as a header.
    (hook,) = label_studio.call("GET", "/api/webhooks/", params={"project": project})
    headers = {"Authorization": "Basic bWU6c2VjcmV0"}
    label_studio.call("PATCH", f"/api/webhooks/{hook['id']}/", json={"headers": headers})
    yield backend, project, made["id"]
    server.should_exit = True
    thread.join()
    backend.close()


def box(label, x, y, w, h):
    corners = [[x, y], [x + w, y], [x + w, y + h], [x, y + h]]
    return {
        "id": f"{label}{x}", "from_name": "label", "to_name": "image", "type": "polygonlabels", "original_width": 64, "original_height": 48,
        "image_rotation": 0, "value": {"points": corners, "closed": True, "polygonlabels": [label]},
    }  # fmt: skip


def test_the_backend_is_asked_taught_and_corrected(label_studio, connected, segmenter, scenes):
    backend, project, model = connected
    first, second = label_studio.upload(project, "a.png", png(scenes.make_scene(1).image))[0], None
    second = next(
        t for t in label_studio.upload(project, "b.png", png(scenes.make_scene(2).image)) if t["id"] != first["id"]
    )

    def labels():
        backend.wait(60)
        return sorted(concept.label for concept in segmenter.database.concepts())

    annotation = label_studio.annotate(first["id"], [box("sky", 0, 0, 100, 40), box("grass", 10, 60, 30, 30)])
    assert labels() == ["grass", "sky"]
    label_studio.call(
        "PATCH",
        f"/api/annotations/{annotation}/",
        json={"result": [box("sky", 0, 0, 100, 40), box("ball", 10, 60, 30, 30)]},
    )
    assert labels() == ["ball", "sky"] and segmenter.database.store.count() == 2
    action = f"/api/dm/actions?id=retrieve_tasks_predictions&project={project}"
    chosen = {"selectedItems": {"all": False, "included": [second["id"]]}, "project": project}
    label_studio.call("POST", action, json=chosen)
    (predicted,) = label_studio.task(second["id"])["predictions"]
    assert predicted["model_version"] == backend.version and predicted["result"]
    assert {r["value"]["polygonlabels"][0] for r in predicted["result"]} <= set(NAMES)
    label_studio.call("DELETE", f"/api/annotations/{annotation}/")
    assert labels() == []
    label_studio.annotate(second["id"], predicted["result"])
    kept = labels()
    assert kept and segmenter.database.store.count() == len(predicted["result"])
    segmenter.database.store.delete(ids=[i for part in segmenter.database.store.scan() for i in part.ids])
    label_studio.call("POST", f"/api/ml/{model}/train", json={})
    assert labels() == kept  # what was lost comes back
    label_studio.call("DELETE", f"/api/tasks/{second['id']}/")
    assert labels() == []


def test_a_personal_token_is_taken_as_well(label_studio, connected, scenes):
    _, project, _ = connected
    (task,) = label_studio.upload(project, "a.png", png(scenes.make_scene(1).image))
    personal = label_studio.call("POST", "/api/token/", json={})["token"]
    client = Client(label_studio.url, personal)
    assert client.task(task["id"])["id"] == task["id"]
    data, _ = client.image(task["data"]["image"])
    assert data == png(scenes.make_scene(1).image)
    client.close()


CONFIG = """<View><Image name="image" value="$image"/><PolygonLabels name="poly" toName="image"><Label value="kettle"/><Label value="tea, green"/></PolygonLabels>
<BrushLabels name="brush" toName="image"><Label value="kettle"/><Label value="grass"/></BrushLabels><RectangleLabels name="rect" toName="image"><Label value="kettle"/></RectangleLabels>
<EllipseLabels name="oval" toName="image"><Label value="sun"/></EllipseLabels><KeyPointLabels name="key" toName="image"><Label value="kettle"/></KeyPointLabels></View>"""


@pytest.fixture(scope="module")
def exports(label_studio, tmp_path_factory):
    """What Label Studio writes of the image and the annotation that the kept files were made of."""
    folder, project = tmp_path_factory.mktemp("exports"), label_studio.project(CONFIG)
    (task,) = label_studio.upload(project, "photo.png", png(np.full((12, 20, 3), 90, np.uint8)))
    kept = json.loads((KEPT / "label_studio.json").read_text())
    label_studio.annotate(task["id"], kept[0]["annotations"][0]["result"])
    (folder / "label_studio.json").write_bytes(label_studio.export(project))
    for kind in ("YOLO", "VOC", "BRUSH_TO_COCO"):
        with zipfile.ZipFile(io.BytesIO(label_studio.export(project, kind))) as archive:
            archive.extractall(folder / kind.lower())
    return folder


CHANGING = (
    "id",
    "task",
    "project",
    "unique_id",
    "created_at",
    "updated_at",
    "date_created",
    "color",
    "completed_by",
    "updated_by",
    "file_upload",
    "annotator",
)


def fixed(value):
    """What of an export does not depend on when and where it was made."""
    if isinstance(value, dict):
        return {key: fixed(one) for key, one in value.items() if key not in CHANGING}
    if isinstance(value, list):
        return [fixed(one) for one in value]
    return (
        re.sub(r"(upload/)\d+/", r"\1", re.sub(r"[0-9a-f]{8}-photo", "photo", value))
        if isinstance(value, str)
        else value
    )


def test_what_is_kept_of_its_json_is_what_it_writes(exports):
    for kept, made in (
        ("label_studio.json", "label_studio.json"),
        ("label_studio_coco.json", "brush_to_coco/result_coco.json"),
        ("label_studio_yolo/notes.json", "yolo/notes.json"),
    ):
        assert fixed(json.loads((exports / made).read_text())) == fixed(json.loads((KEPT / kept).read_text())), kept


def test_what_is_kept_of_its_voc_and_yolo_is_what_it_writes(exports):
    (voc,) = (exports / "voc" / "Annotations").glob("*.xml")
    assert re.sub("<annotator>.*</annotator>", "", fixed(voc.read_text())) == re.sub(
        "<annotator>.*</annotator>", "", fixed((KEPT / "label_studio_voc.xml").read_text())
    )
    (labels,) = (exports / "yolo" / "labels").glob("*.txt")
    (kept,) = (KEPT / "label_studio_yolo" / "labels").glob("*.txt")
    assert labels.read_text() == kept.read_text()
    assert (exports / "yolo" / "classes.txt").read_text() == (KEPT / "label_studio_yolo" / "classes.txt").read_text()
