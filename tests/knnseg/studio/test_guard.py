"""Who may ask, for what, and how much."""

import io

import numpy as np
import pytest
from PIL import Image

from knnseg.errors import ConfigError, DatasetError
from knnseg.studio.gallery import Gallery
from knnseg.studio.guard import is_loopback
from knnseg.studio.listening import Listener

TOKEN = "sw0rdf1sh-sw0rdf1sh"
WRITES = [
    "teach", "undo", "examples/relabel", "examples/delete", "concepts/rename", "concepts/kind", "concepts/remove",
]  # fmt: skip


def photograph(seed=0, size=(30, 40)):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "192.168.0.9", "", "a b", "[::1"])
def test_only_names_of_this_machine_are_served(api, host):
    for path in ("/", "/static/studio.js", "/api/state"):
        response = api.client.get(path, headers={"host": host})
        assert response.status_code == 403 and "name of this machine" in response.json()["error"]


def test_other_machines_may_use_an_address_where_it_listens_to_them(make_api, studio):
    api = make_api(studio, addresses=True, token=TOKEN)
    assert api.client.get("/", headers={"host": "192.168.0.9:8765"}).status_code == 200
    assert api.client.get("/", headers={"host": "evil.example"}).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:1"},
        {"sec-fetch-site": "cross-site"},
    ],
)
def test_other_pages_change_nothing(api, headers):
    for path in (*WRITES, "images", "login"):
        assert "of this page" in api.post(path, {}, 403, headers=headers)["error"]


def test_this_page_and_no_page_may(api):
    for headers in ({}, {"origin": "http://localhost:8765", "sec-fetch-site": "same-origin"}):
        assert "nothing was changed" in api.post("undo", {}, 400, headers=headers)["error"]


def test_what_a_form_can_send_is_refused(api):
    for path in WRITES:
        response = api.client.post(f"/api/{path}", content="{}", headers={"content-type": "text/plain"})
        assert response.status_code == 415, path


def test_a_token_is_asked_of_everything_but_the_empty_page(make_api, studio):
    api = make_api(studio, token=TOKEN)
    assert api.client.get("/").status_code == api.client.get("/static/studio.js").status_code == 200
    for path in ("state", "images", "concepts", "review"):
        assert "token" in api.get(path, 401)["error"]
    assert "token" in api.post("undo", {}, 401)["error"]
    assert "token" in api.post("login", {"token": TOKEN[:-1]}, 401)["error"]
    assert "token" in api.post("login", {"token": "é"}, 401)["error"]
    response = api.client.post("/api/login", json={"token": TOKEN})
    assert {"HttpOnly", "SameSite=strict"} <= set(response.headers["set-cookie"].split("; "))
    assert len(api.get("images")) == 3  # by the cookie
    api.client.cookies.clear()
    api.get("state", headers={"authorization": f"Bearer {TOKEN}"})
    api.get("state", 401, headers={"authorization": "Bearer é".encode()})


def test_nothing_is_taught_where_it_is_read_only(make_api, make_studio):
    api = make_api(make_studio(read_only=True))
    assert api.get("state")["readOnly"]
    for path in WRITES:
        assert "--read-only" in api.post(path, {}, 403)["error"]
    api.get(f"images/{api.get('images')[0]['id']}/segmentation")


def test_no_script_of_anybody_runs(api):
    policy = api.client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert api.client.get("/api/state").headers["cache-control"] == "no-store"


def test_no_path_leads_out(api, photos):
    (photos.parent / "secret.png").write_bytes(photograph())
    (photos / "below").mkdir()
    (photos / "below" / "other.png").write_bytes(photograph())
    for name in ("../secret.png", "..%2Fsecret.png", "below/other.png", "/etc/passwd", "secret.png"):
        assert api.client.get(f"/api/images/{name}/picture").status_code in (400, 404)
    for name in ("../session.py", "..%2Fsession.py", "nothing.js"):
        assert api.client.get(f"/static/{name}").status_code == 404


def drop(api, name, content, code=200):
    return api.answer(api.client.post("/api/images", content=content, headers={"x-name": name}), code)


def test_a_dropped_photograph_is_kept_when_it_is_taught(api, runs, photos):
    added = drop(api, "..%2F..%2Fet%20c%2Fmy%20%3Cb%3E.PNG", photograph(1))
    assert not added["kept"] and added["name"].endswith(".png") and "/" not in added["name"]
    assert len(list(photos.iterdir())) == 3 and api.get("images")[0] == added
    api.post("teach", {"image": added["id"], "mask": {"runs": runs(np.ones((30, 40)))}, "name": "noise"})
    assert (photos / added["name"]).read_bytes() == photograph(1)
    assert {**added, "kept": True} in api.get("images") and len(api.get("images")) == 4
    (example,) = api.get("examples", params={"concept": "noise"})
    assert example["image"] == added["name"] and api.get(f"examples/{example['id']}/picture")


def test_what_is_dropped_is_an_image_of_bounded_size(make_api, studio):
    api = make_api(studio, largest=2000)
    assert "image" in drop(api, "x.png", b"GIF89a and so on", 400)["error"]
    assert "at most" in drop(api, "x.png", photograph(), 413)["error"]
    assert len(api.get("images")) == 3


def test_only_the_newest_dropped_photographs_are_remembered(tmp_path):
    gallery = Gallery(tmp_path)
    first = gallery.drop("a.png", photograph(0))
    for seed in range(1, 17):
        gallery.drop("a.png", photograph(seed))
    assert len(gallery.listed()) == 16
    with pytest.raises(DatasetError, match="expected the id of one that is listed"):
        gallery.image(first.id)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "gone").mkdir()
    gallery = Gallery(tmp_path / "gone")
    dropped = gallery.drop("a.png", photograph())
    (tmp_path / "gone").rmdir()
    with pytest.raises(DatasetError, match="cannot keep the dropped photograph"):
        gallery.keep(dropped.id)


def test_a_photograph_that_changes_is_read_again(photos):
    gallery = Gallery(photos)
    one = gallery.listed()[0]
    before = gallery.image(one.id)
    assert gallery.image(one.id) is before
    (photos / one.name).write_bytes(photograph(7))
    assert gallery.image(one.id).size == (30, 40) and gallery.thumbnail(one.id)
    (photos / one.name).write_bytes(b"broken")
    with pytest.raises(ValueError, match=one.name):
        gallery.image(one.id)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("example.org", False),
    ],
)
def test_what_only_this_machine_reaches(host, loopback):
    assert is_loopback(host) is loopback


def test_links_have_a_token_where_other_machines_reach_them():
    with Listener("127.0.0.1", 0) as listener:
        assert listener.link.startswith("http://127.0.0.1:") and "token" not in listener.link
        with pytest.raises(ConfigError, match=r"cannot listen on 127\.0\.0\.1, port \d+.*--port"):
            Listener("127.0.0.1", int(listener.link.rsplit(":", 1)[1].strip("/")))
    with Listener("0.0.0.0", 0) as listener, Listener("0.0.0.0", 0) as other:
        link, second = listener.link, other.link
    assert len(link.partition("#token=")[2]) >= 32 and link.partition("#token=")[2] != second.partition("#token=")[2]
    with Listener("127.0.0.1", 0, TOKEN) as listener:
        assert listener.link.endswith(f"#token={TOKEN}")


@pytest.mark.parametrize("token", ["", "short", "with a space in the middle", "ünïcödé-ünïcödé-ünïcödé"])
def test_a_token_that_can_be_guessed_or_not_be_sent_is_refused(run, photos, monkeypatch, token):
    monkeypatch.setenv("STUDIO", token)
    said = run("studio", "-s", "memory:///x", "--images", photos, "--token-env", "STUDIO", code=2).output
    assert "at least 16 letters" in said and (not token or token not in said)


def test_further_names_are_served(make_api, studio):
    with Listener("127.0.0.1", 0, names=["Studio.example"]) as listener:
        assert (
            make_api(studio, names=listener.names).client.get("/", headers={"host": "studio.example"}).status_code
            == 200
        )
