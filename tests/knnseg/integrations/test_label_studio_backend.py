"""The ML backend against as much of Label Studio as it asks for: predicting, learning, and what it refuses."""

import threading
import time

import httpx
import numpy as np
import pytest

from knnseg import ConceptDatabase
from knnseg.database.parts import WHOLE
from knnseg.errors import ConfigError, DatasetError, KnnSegWarning
from knnseg.export.label_studio import LabelConfig
from knnseg.integrations.label_studio import client as client_module
from knnseg.integrations.label_studio.backend import Backend
from knnseg.integrations.label_studio.client import Client
from knnseg.integrations.label_studio.server import Listener
from knnstore import F

XML = """<View><Image name="image" value="$image"/><PolygonLabels name="p" toName="image"><Label value="sky"/><Label value="grass"/>
<Label value="ball"/></PolygonLabels></View>"""


@pytest.fixture
def client(fake):
    client = Client(fake.url, "legacy")
    yield client
    client.close()


@pytest.fixture
def memory(extractor, tmp_path, request):
    with ConceptDatabase.open(f"memory://{tmp_path}/db", extractor, parts=getattr(request, "param", 0)) as database:
        yield database


@pytest.fixture
def backend(memory, make_segmenter, client):
    backend = Backend(make_segmenter(memory), client, name="test")
    yield backend
    backend.close()


@pytest.fixture
def listening(backend):
    """A client of the backend as Label Studio reaches it, with a password."""
    listener = Listener("127.0.0.1", 0, "me:secret")
    server = listener.server(backend)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener._socket]})
    thread.start()
    with httpx.Client(base_url=listener.url, auth=("me", "secret")) as http:
        while not server.started:
            time.sleep(0.01)
        yield http
    server.should_exit = True
    thread.join()


def examples(database):
    """Label, task and annotation, and sides of each example."""
    rows = []
    for r in database.store.scan(WHOLE):
        for label, writer, x0, x1 in zip(
            *(r.fields[name].tolist() for name in ("label", "writer", "x0", "x1")), strict=True
        ):
            rows.append((database.name(label), writer.partition(" task ")[2], x0, x1))
    return sorted(rows)


@pytest.mark.parametrize("memory", [0, 4], indirect=True)
def test_a_task_and_its_examples_agree_whatever_happens_to_its_annotations(fake, backend, memory, scene, client):
    memory.add(scene(1), writer="me")
    others = memory.store.count()
    fake.add_task(5, scene(7).image)
    fake.annotate(5, 11, ("sky", 2, 2, 30, 12), ("ball", 40, 20, 50, 30))
    assert backend.sync(5) == 2 and backend.sync(5) == 0
    mine = [("ball", "5 annotation 11", 40, 50), ("sky", "5 annotation 11", 2, 30)]

    def there():
        return [one for one in examples(memory) if one[1].startswith("5")]

    assert there() == mine
    written = memory.store.count()
    assert backend.sync(5) == 0 and memory.store.count() == written
    fake.annotate(5, 11, ("sky", 2, 2, 30, 12), ("ball", 44, 20, 54, 30))  # moved
    assert backend.sync(5) == 0 and there() == [("ball", "5 annotation 11", 44, 54), mine[1]]
    fake.annotate(5, 12, ("sky", 2, 2, 30, 12))  # a second opinion, later, which agrees on the sky
    assert backend.sync(5) == -1 and there() == [("sky", "5 annotation 12", 2, 30)]
    memory.rename("sky", "heaven")
    with pytest.warns(KnnSegWarning, match="'sky' is called 'heaven' now"):
        assert backend.sync(5) == 0
    assert there() == [("heaven", "5 annotation 12", 2, 30)]  # as adding it again adds nothing
    memory.rename("heaven", "sky")
    (kept,) = [
        record
        for part in memory.store.scan(
            WHOLE & (F("writer") == "label-studio " + fake.url.removeprefix("http://") + " task 5 annotation 12")
        )
        for record in part.ids
    ]
    memory.relabel([kept], "grass")
    assert backend.sync(5) == 0 and [label for label, *_ in there()] == [
        "grass"
    ]  # whoever corrects it here has the last word
    memory.delete_examples([kept])
    assert backend.sync(5) == 0 and [label for label, *_ in there()] == [""]  # and what is deleted here stays so
    memory.undo()
    memory.undo()
    fake.annotate(5, 12, ("ball", 40, 20, 50, 30), was_cancelled=True)
    assert backend.sync(5) == 1 and len(there()) == 2  # the first one counts again
    del fake.tasks[5]
    assert backend.sync(5) == -2 and backend.sync(5) == 0
    assert memory.store.count() == others  # what others added stays


def test_key_points_alone_teach_nothing_and_stuff_stays_stuff(fake, backend, memory, scene):
    memory.add(scene(1))
    fake.add_task(5, scene(7).image)
    fake.annotate(5, 1, ("sky", 2, 2, 30, 12))
    backend.sync(5)
    assert not any(concept.mixed for concept in memory.concepts())
    fake.tasks[5]["annotations"][0]["result"] = [
        {
            "id": "k",
            "to_name": "image",
            "type": "keypointlabels",
            "original_width": 64,
            "original_height": 48,
            "value": {"x": 5, "y": 5, "keypointlabels": ["sky"]},
        }
    ]
    assert backend.sync(5) == -1


def test_notices_are_learnt_in_order_and_predictions_follow(fake, backend, memory, scene, listening):
    for number in (1, 2, 3):
        fake.add_task(number, scene(number).image)
    fake.annotate(1, 10, ("sky", 2, 2, 60, 12), ("grass", 2, 30, 20, 46))
    health = listening.get("/health").json()
    assert health["status"] == "UP" and listening.post("/setup", json={"schema": XML}).json() == {
        "model_version": health["model_version"]
    }

    def notify(**event):
        assert listening.post("/webhook", json=event).status_code == 200
        backend.wait(20)

    notify(action="ANNOTATION_CREATED", annotation={"id": 10}, task={"id": 1})
    assert {label for label, *_ in examples(memory)} == {"sky", "grass"}
    version = listening.get("/health").json()["model_version"]
    assert version != health["model_version"] and version.startswith("test-")
    tasks = [fake.tasks[2], {"id": 9, "data": {"image": "/data/gone.png"}}, {"id": 8, "data": {}}]
    results = listening.post("/predict", json={"tasks": tasks, "label_config": XML}).json()["results"]
    assert [len(one) for one in results] == [1, 0, 0]  # what cannot be predicted is left out in its place
    assert results[0][0]["model_version"] == version and results[0][0]["result"][0]["type"] == "polygonlabels"
    fake.tasks[1]["annotations"] = []
    notify(action="ANNOTATIONS_DELETED", annotations=[{"id": 10}])
    assert examples(memory) == []
    fake.annotate(1, 13, ("sky", 2, 2, 60, 12))
    fake.annotate(2, 14, ("sky", 2, 2, 60, 12))
    notify(action="START_TRAINING", project={"id": 1})
    assert len(examples(memory)) == 2
    del fake.tasks[2]
    notify(action="TASKS_DELETED", tasks=[{"id": 2}])
    assert [writer for _, writer, *_ in examples(memory)] == ["1 annotation 13"]
    notify(action="PROJECT_UPDATED", project={"id": 1})


def test_a_forged_or_broken_notice_adds_nothing(fake, backend, memory, listening, caplog):
    result = [
        {
            "id": "r",
            "type": "polygonlabels",
            "value": {"points": [[0, 0], [50, 0], [50, 50]], "polygonlabels": ["evil"]},
        }
    ]
    forged = {"action": "ANNOTATION_CREATED", "annotation": {"id": 1, "result": result}, "task": {"id": 77}}
    assert listening.post("/webhook", json=forged).status_code == 200
    backend.wait(20)
    assert memory.store.count() == 0
    for broken in (
        {"action": "ANNOTATION_CREATED"},
        {"action": "TASKS_DELETED", "tasks": ["1"]},
        {"action": "START_TRAINING", "project": {"id": "1"}},
    ):
        answer = listening.post("/webhook", json=broken)
        assert answer.status_code == 400 and "notice: expected objects with an id" in answer.json()["error"]
    fake.tasks[78] = {"id": 78, "data": {}, "annotations": [{"id": 1, "result": [{"original_width": "x"}]}]}
    listening.post("/webhook", json={"action": "ANNOTATION_UPDATED", "task": {"id": 78}})
    backend.wait(20)
    assert "task 78: not learnt from: task 78: annotations[0].result[0]" in caplog.text


def test_read_only_learns_nothing(fake, memory, make_segmenter, client, scene):
    backend = Backend(make_segmenter(memory), client, learn=False)
    fake.add_task(5, scene(7).image)
    fake.annotate(5, 1, ("sky", 2, 2, 30, 12))
    backend.notice({"action": "ANNOTATION_CREATED", "task": {"id": 5}})
    backend.close()
    assert memory.store.count() == 0
    with pytest.raises(ConfigError, match="concept database"):
        Backend(make_segmenter(None), client)


def test_what_the_server_refuses(listening):
    for path in ("/health", "/"):
        assert listening.get(path, auth=("me", "wrong")).status_code == 401
    bare = httpx.get(listening.base_url.join("/health"))
    assert bare.status_code == 401 and bare.headers["www-authenticate"] == "Basic" and "secret" not in bare.text
    for header in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert listening.post("/webhook", json={}, headers=header).status_code == 403
    assert listening.post("/predict", content=b"[1]").json() == {"error": "expected a JSON object"}
    assert listening.post("/predict", content=b"{").status_code == 400
    assert "list of tasks" in listening.post("/predict", json={"tasks": 1}).json()["error"]
    answer = listening.post("/setup", json={"schema": "<View/>"})
    assert answer.status_code == 400 and "expected one <Image" in answer.json()["error"]
    assert listening.post("/setup", json={}).status_code == 400
    assert listening.post("/webhook", content=b" " * (33 << 20)).status_code == 413


@pytest.mark.parametrize(
    ("host", "auth", "message"),
    [
        ("0.0.0.0", "", "KNNSEG_BASIC_AUTH"),
        ("127.0.0.1", "nopassword", "user:password"),
        ("192.0.2.7", "a:b", "cannot listen"),
    ],
)
def test_where_it_does_not_listen(host, auth, message):
    with pytest.raises(ConfigError, match=message):
        Listener(host, 0, auth)


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:9/x.png", "//evil.example/x.png", "https://evil.example/x.png", "file:///etc/passwd", "s3://bucket/x.png",
        "http://user:pass@127.0.0.1/x.png", "http://[", "ftp://127.0.0.1/x.png",
    ],
)  # fmt: skip
def test_images_of_other_places_are_never_asked_for(fake, client, address):
    with pytest.raises(DatasetError, match="another place"):
        client.image(address)
    assert not fake.asked


def test_what_looks_like_the_host_and_is_another_is_not_asked(fake, client):
    for address in (
        f"{fake.url}@evil.example/x.png",
        f"{fake.url}\\@evil.example/x",
        fake.url.replace("127.0.0.1", "127.0.0.1.evil.example"),
    ):
        with pytest.raises(DatasetError):
            client.image(address)
    assert not fake.asked


def test_images_of_label_studio(fake, client, monkeypatch):
    fake.images["/data/upload/a b.png"] = fake.images["/data/upload/a%20b.png"] = b"x" * 1000
    data, place = client.image(f"{fake.url}/data/upload/a%20b.png")
    assert data == b"x" * 1000 and place.endswith("/data/upload/a%20b.png")
    with pytest.raises(DatasetError, match="expected status 200, got 302"):
        client.image("/elsewhere")
    with pytest.raises(DatasetError, match="expected status 200, got 404"):
        client.image("/nothing.png")
    monkeypatch.setattr(client_module, "_MOST", 999)
    with pytest.raises(DatasetError, match="expected at most 999 bytes"):
        client.image("/data/upload/a%20b.png")


def test_local_files_below_their_folder_only(fake, tmp_path):
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "a.png").write_bytes(b"abc")
    (tmp_path / "secret.txt").write_bytes(b"secret")
    (root / "link.png").symlink_to(tmp_path / "secret.txt")
    client = Client(fake.url, "legacy", files=root)
    assert client.image("/data/local-files/?d=sub/a.png") == (
        str(root / "sub" / "a.png"),
        (root / "sub" / "a.png").as_uri(),
    )
    for name in ("../secret.txt", "link.png", "sub", "nothing", "%2e%2e/secret.txt", f"{tmp_path}/secret.txt"):
        with pytest.raises(DatasetError, match="below"):
            client.image(f"/data/local-files/?d={name}")
    assert not fake.asked
    client.close()


def test_a_personal_token_is_renewed(fake):
    client = Client(fake.url, "abc.def.ghi")
    fake.add_task(1, np.zeros((4, 4, 3), np.uint8))
    assert client.task(1)["id"] == 1 and client.task(2) is None
    fake.holds += 1  # it ends
    assert client.task(1)["id"] == 1
    assert [token for _, token in fake.asked] == [
        "Bearer access4",
        "Bearer access4",
        "Bearer access4",
        "Bearer access6",
    ]
    client.close()


def test_a_wrong_token_is_said_and_not_shown(fake):
    for token in ("wrong-token", "xyz.xyz.xyz"):
        client = Client(fake.url, token)
        with pytest.raises(DatasetError, match=r"got 401\. Check the access token") as caught:
            client.task(1)
        assert token not in str(caught.value) and token not in repr(client)
        client.close()


@pytest.mark.parametrize(
    ("url", "token", "message"),
    [("localhost:8080", "t", "URL"), ("http://u:p@localhost", "t", "URL"), ("http://localhost", " ", "access token")],
)
def test_a_client_that_makes_no_sense(url, token, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        Client(url, token)
    with pytest.raises(ConfigError, match="expected a folder"):
        Client("http://localhost", "t", files=tmp_path / "no")


def test_the_pages_of_a_project(fake, client, monkeypatch):
    monkeypatch.setattr(client_module, "_PAGE", 2)
    for number in range(1, 6):
        fake.add_task(number, np.zeros((4, 4, 3), np.uint8))
    fake.annotate(2, 1, ("sky", 0, 0, 4, 4))
    fake.annotate(5, 2, ("sky", 0, 0, 4, 4))
    assert list(client.annotated(1)) == [2, 5]


def test_the_configuration_of_a_project_may_name_its_data_otherwise(backend, fake, scene):
    fake.add_task(1, scene(1).image)
    config = LabelConfig.parse(XML.replace("$image", "$photo"))
    task = {"id": 1, "data": {"photo": "/data/upload/1.png"}}
    assert config.key == "photo" and len(backend.predict([task], XML.replace("$image", "$photo"))[0]) == 1
