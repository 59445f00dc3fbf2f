"""Every command with a key in the URL, in whatever way it ends: nothing that it says or writes has the key.

The commands come from the command lines themselves, so that a new one without a case fails here.
"""

import base64
import io
import json
import logging
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import uuid
from contextlib import suppress
from pathlib import Path
from typing import get_type_hints
from urllib.parse import quote

import numpy as np
import psutil
import pytest
import typer
from PIL import Image

import knnseg.cli
import knnseg.cli.commands
import knnstore._commands
import knnstore.cli
from knnseg import ConceptDatabase, Segmenter
from knnseg.database.schema import FIELDS
from knnseg.database.spaces import space_name
from knnseg.datasets import RenderedScenes
from knnstore.errors import KnnStoreError

BRIDGE = Path(__file__).parents[1] / "plugins" / "knnstore-qdrant" / "tests" / "bridge.py"
CORE = "sw0rdf1sh"  # all escapes of the key have it
KEY = f"{CORE}+/=%&'{CORE}"
ENCODED = quote(KEY, safe="")
BASE64 = [base64.b64encode(text.encode()).decode() for text in (KEY, f"me:{KEY}")]
MAINS = {"knnstore": knnstore.cli.main, "knnseg": knnseg.cli.main}


def leaves(command, path=()):
    """All commands below one, each as its words."""
    if not hasattr(command, "commands"):
        return {path: command}
    return {
        words: leaf for name, below in command.commands.items() for words, leaf in leaves(below, (*path, name)).items()
    }


COMMANDS = {
    (program, *words): leaf
    for program, app in (("knnstore", knnstore._commands.app), ("knnseg", knnseg.cli.commands.app))
    for words, leaf in leaves(typer.main.get_command(app)).items()
}

# What follows the words of a command; a URL is {url}, what lies about is below {there}, what is written below {out}.
PAIRS = "--pairs {there}/images {there}/labels --class-file {there}/classes.json"
CASES = {
    "knnstore backends": "",
    "knnstore info": "{url}",
    "knnstore stats": "{url}",
    "knnstore count": "{url}",
    "knnstore ping": "{url}",
    "knnstore optimize": "{url}",
    "knnstore check": "{url} --test test_delete_by_id",
    "knnstore export": "{url} {out}/exported",
    "knnstore import": "{there}/exported {url}2",
    "knnstore copy": "{url} {url}3",
    "knnstore bench": "{url}4 --vectors 200 --dim 4 --rounds 1 --out {out}/bench",
    "knnseg add": "-s {url} " + PAIRS,
    "knnseg segment": "{there}/images/0.png -s {url} -c kettle --out {out}/segmented",
    "knnseg explain": "{there}/images/0.png -s {url} -c kettle --out {out}/explained.html",
    "knnseg eval": "-s {url} " + PAIRS + " --out {out}/report --limit 1",
    "knnseg calibrate": "-s {url} --keys --out {out}/mine.toml --most 4",
    "knnseg info": "-s {url}",
    "knnseg concepts list": "-s {url}",
    "knnseg concepts kind": "kettle --thing -s {url}",
    "knnseg concepts rename": "kettle pot -s {url}",
    "knnseg concepts merge": "pot --into kettle -s {url}",
    "knnseg concepts sheet": "kettle -s {url} --out {out}/sheet.png",
    "knnseg concepts history": "-s {url}",
    "knnseg concepts undo": "1 -s {url}",
    "knnseg concepts purge": "-y -s {url}",
    "knnseg examples list": "-s {url}",
    "knnseg examples show": "0 -s {url} --out {out}/shown.png",
    "knnseg examples relabel": "nobody --to pot -s {url}",
    "knnseg examples delete": "nobody -y -s {url}",
    "knnseg discover": "{there}/images -s {url} -p {there}/strange.toml --out {out}/discovered",
    "knnseg harvest": "--images {there}/named.csv -s {url} -p tiny --out {out}/harvested",
    "knnseg concepts reembed": "-s {url} --preset {there}/other.toml",
    "knnseg concepts remove": "kettle -y -s {url}",
    "knnseg datasets": "",
    "knnseg models": "",
    "knnseg studio": "-s {url} --preset tiny --images {there}/images --port 0",
    "knnseg label-studio": "-s {url} -p tiny --port 0",
    "knnseg demo": "",  # its store is a folder of its own
    "knnstore delete": "{url}3 --id nobody -y",
    "knnstore drop": "{url}3 -y",
}
SERVING = ("knnseg studio", "knnseg label-studio")
"""What goes well serves until it is interrupted."""
OPENING = [name for name, arguments in CASES.items() if "{url}" in arguments]


def test_every_command_has_a_case():
    assert {" ".join(words) for words in COMMANDS} == CASES.keys()


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """Labelled images, and a preset of another space."""
    root = tmp_path_factory.mktemp("there")
    scenes = RenderedScenes(3, seed=5, size=(64, 64), including=["kettle"])
    for kind in ("images", "labels"):
        (root / kind).mkdir()
    for i, scene in enumerate(scenes):
        Image.fromarray(scene.image).save(root / "images" / f"{i}.png")
        Image.fromarray((scene.semantic(list(scenes.classes)) + 1).astype(np.uint8)).save(root / "labels" / f"{i}.png")
    classes = [{"id": i, "name": n, "isthing": n == "kettle"} for i, n in enumerate(scenes.classes, 1)]
    (root / "classes.json").write_text(json.dumps(classes))
    (root / "named.csv").write_text("image,name\n" + "".join(f"images/{i}.png,kettle\n" for i in range(3)))
    strange = 'preset = "tiny"\n[base]\nname = "none"\n[fusion]\nthreshold = 0.9\n[painting]\nunknown = true\n'
    (root / "strange.toml").write_text(strange)
    (root / "other.toml").write_text('preset = "tiny"\n[keys]\ncontext = 0.5\n')
    return root


@pytest.fixture(scope="module")
def bridge():
    """A stand-in for a server of Qdrant that wants the key."""
    options = json.dumps({"api_key": KEY})
    with subprocess.Popen([sys.executable, str(BRIDGE), options], stdout=subprocess.PIPE, text=True) as process:
        ports = json.loads(process.stdout.readline())
        yield process, ports["http"]
        process.send_signal(signal.SIGCONT)
        process.kill()


@pytest.fixture
def frozen():
    """The ports of a server that takes connections and never answers."""
    with subprocess.Popen([sys.executable, str(BRIDGE), "{}"], stdout=subprocess.PIPE, text=True) as process:
        ports = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGSTOP)
        yield ports
        process.kill()


@pytest.fixture
def said(monkeypatch, capfd, caplog, tmp_path, there):
    """Runs a command: its exit code, and all that it has said, logged, raised and written; at a terminal if it types."""
    caplog.set_level(logging.DEBUG)

    def run(name, arguments, url="", types=""):
        words = [word.format(url=url, there=there, out=tmp_path) for word in arguments.split()]
        monkeypatch.setattr(sys, "argv", [*name.split(), *words])
        monkeypatch.setattr(sys, "stdin", Terminal(types) if types else sys.__stdin__)
        monkeypatch.chdir(tmp_path)
        text, code = "", 0
        try:
            MAINS[name.split()[0]]()
        except SystemExit as end:
            code = end.code
        except BaseException as error:
            text = everything(error)
            code = "raised"
        made = list(tmp_path.rglob("*"))
        written = [file.read_bytes().decode("latin-1") for file in made if file.is_file()]
        out, err = capfd.readouterr()
        text = "\n".join([text, out, err, caplog.text, *map(str, made), *written])
        return code, text

    return run


class Terminal(io.StringIO):
    """Somebody sits there and types."""

    def isatty(self):
        return True


def everything(error):
    """Whatever can be printed of an error and of all that led to it."""
    texts, left, met = ["".join(traceback.format_exception(error))], [error], set()
    while left:
        one = left.pop()
        if one is not None and id(one) not in met:
            met.add(id(one))
            texts += [str(one), repr(one), repr(one.args), repr(vars(one)), str(getattr(one, "__notes__", ""))]
            left += [one.__cause__, one.__context__]
    return "\n".join(texts)


def assert_hidden(text):
    place = text.find(CORE)
    assert place < 0, f"…{text[max(place - 300, 0) : place]}<HERE>"
    assert not any(code.rstrip("=") in text for code in BASE64)


def url_of(port, path="c", key=ENCODED, more=""):
    """The path is last, so that a case can add a letter to it."""
    return f"qdrant://127.0.0.1:{port}/{path}?transport=http&timeout=20&api_key={key}{more}"


def with_suffixes(arguments, url):
    """A case may write a digit behind the URL, for another collection."""

    def place(match):
        before, query, options = url.partition("?")
        return f"{before}{match[1]}{query}{options}"

    return re.sub(r"\{url\}(\d?)", place, arguments)


def run_case(said, name, url):
    code, text = said(name, with_suffixes(CASES[name], url).replace("{url}", url))
    assert_hidden(text)
    return code, text


# -- what goes well ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_goes_well(said, bridge, there, tmp_path):
    url = url_of(bridge[1])
    done = {}
    for name in sorted(CASES, key=lambda name: name != "knnseg add"):
        if name == "knnstore import":
            shutil.move(tmp_path / "exported", there / "exported")
        for flag in ("", " --json"):
            if name in ("knnseg demo", *SERVING) or (flag and name == "knnstore export"):
                continue
            code, text = said(name, with_suffixes(CASES[name], url) + flag)
            assert_hidden(text)
            done[name + flag] = code
            if "{url}" in CASES[name] and not flag and name.split()[0] == "knnstore" and name != "knnstore count":
                assert "***" in text or name in ("knnstore delete",), name  # the URL was printed, and without the key
    refused = {
        name for name, code in done.items() if code
    }  # called otherwise by then, several spaces, none right there
    assert all(
        name.startswith(("knnseg concepts", "knnseg examples", "knnstore delete", "knnstore drop")) for name in refused
    ), refused


# -- what goes wrong ---------------------------------------------------------------------------------------------------

AWAY = [
    f"qdrant://127.0.0.1:1/c?timeout=1&retries=0&api_key={ENCODED}",
    f"qdrant://127.0.0.1:1/c?timeout=1&retries=0&transport=http&api_key={ENCODED}",
    f"milvus://me:{ENCODED}@127.0.0.1:1/default/c?timeout=1&retries=0",
    f"milvus://127.0.0.1:1/default/c?timeout=1&retries=0&token={ENCODED}",
]
MALFORMED = [
    f"qdrant://127.0.0.1:1/c?api_key={ENCODED}&no_such=1",
    f"qdrant://127.0.0.1:1/c?api_kye={ENCODED}",
    f"qdrant://127.0.0.1:1/c?api_key={ENCODED}&m=many",
    f"qdrant://{ENCODED}@127.0.0.1:1/c",
    f"qdrant://me:{ENCODED}@127.0.0.1:1/c",
    f"qdrant://me:{KEY.replace(' ', '')}@127.0.0.1:1/c",
    f"qdrant://127.0.0.1:{CORE}/c",
    f"qdrant://me:{ENCODED}@127.0.0.1:99999/c?api_key={ENCODED}",
    f"qdrant://127.0.0.1:1/c?api_key={CORE}%zz%&tls=%9",
    f"qdrant://db.example/c?api_key={ENCODED}",  # unencrypted
    f"milvus://me:{ENCODED}@127.0.0.1:1/c",  # no database
    f"faiss:///tmp/x?api_key={ENCODED}",
    f"memory:///x?token={ENCODED}",
    f"nosuch://me:{ENCODED}@h/c?api_key={ENCODED}",
    f"qdrant:/127.0.0.1/c?api_key={ENCODED}",
    f"qdrant+edge:///nowhere/c?api_key={ENCODED}",
]


@pytest.mark.parametrize("name", OPENING)
@pytest.mark.filterwarnings("ignore:.*plain text")
def test_a_server_that_is_away_or_a_url_that_makes_no_sense(said, name, there):
    if name == "knnstore import":
        (there / "exported").mkdir(exist_ok=True)
    for number, url in enumerate((*AWAY, *MALFORMED)):
        code, text = said(name, with_suffixes(CASES[name], url) + (" --json" if number % 2 else ""))
        assert_hidden(text)
        assert code or name == "knnstore ping", url  # which asks no engine of what is in this process


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(CASES) - {"knnseg demo"}))
def test_a_url_in_the_wrong_place(said, name):
    """As each argument and option of a command, one too many, and as the command itself."""
    program, *words = name.split()
    for url in (AWAY[0], f"{AWAY[2]}#")[: 1 if name == "knnstore bench" else 2]:  # which starts processes
        assert_hidden(said(program, url)[1])
        for extra in (url, f"--no-such={url}"):
            assert_hidden(said(name, f"{CASES[name]} {extra}".replace("{url}", AWAY[0]))[1])
        for parameter in COMMANDS[program, *words].params:
            if "Path" in str(parameter.bare_type):
                continue  # see below
            if parameter.param_type_name == "option":
                flags = [f"{parameter.opts[0]} {url}", f"{parameter.opts[0]}={url}"]
            else:
                flags = [url]
            for flag in flags:
                given = " ".join([flag, CASES[name]]).replace("{url}", AWAY[0])
                assert_hidden(said(name, given)[1])


def paths():
    """Every argument and option that is a path, with the command that takes it."""
    return [
        pytest.param(" ".join(words), parameter, id=f"{' '.join(words)} {parameter.name}")
        for words, command in COMMANDS.items()
        for parameter in command.params
        if "Path" in str(get_type_hints(command.callback).get(parameter.name))
    ]


@pytest.mark.parametrize(("name", "parameter"), paths())
def test_a_url_where_a_path_is_expected(said, name, parameter):
    """It would become the name of a folder. Refused, by the name of the option, before anything is done."""
    for url in (AWAY[0], AWAY[2], f"qdrant:/127.0.0.1/c?api_key={ENCODED}"):
        if parameter.param_type_name == "option":
            flag, count = max(parameter.opts, key=len), max(parameter.nargs, 1)
            given = [f"{flag} {' '.join([url] * count)}", *([f"{flag}={url}"] if count == 1 else [])]
        else:
            flag, given = parameter.name, [url]
        for one in given:
            code, text = said(name, f"{one} {url}" if "{url}" in CASES[name].split()[:1] else one)
            assert_hidden(text)
            text = re.sub(r"[│\s]+", " ", text)
            assert code == 2 and flag in text and "expected a path on this machine, got a URL" in text


@pytest.mark.slow
def test_processes_are_not_told_it_where_all_can_see(said, bridge):
    over, seen = threading.Event(), set()

    def look():
        while not over.wait(0.02):
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    seen.add((child.pid, " ".join([*child.cmdline(), *child.environ().values()])))

    watcher = threading.Thread(target=look)
    watcher.start()
    run_case(said, "knnstore bench", url_of(bridge[1]))
    over.set()
    watcher.join()
    started = [told for pid, told in seen if pid != bridge[0].pid]
    assert started
    assert_hidden("\n".join(started))


@pytest.mark.parametrize("key", ["sw0rdf1shé", "sw0rdf1sh\udc80", "sw0rdf1sh\n"])
def test_a_key_that_no_header_can_have(said, bridge, key):
    for transport in ("http", "grpc"):
        text = url_of(bridge[1], key=quote(key.encode(errors="surrogateescape"))).replace(
            "=http", f"={transport}&retries=0"
        )
        assert run_case(said, "knnstore info", text)[0]
        with pytest.raises(KnnStoreError) as caught:
            knnstore.open_store(text, knnstore.StoreSpec(3, "dot"))
        assert_hidden(everything(caught.value))


@pytest.mark.parametrize(
    ("name", "arguments", "types", "question"),
    [
        ("knnseg concepts remove", "kettle -s {url}", "y\n", "Remove 1 example of 'kettle' from"),
        ("knnseg concepts remove", "kettle -s {url}", "n\n", "Remove 1 example of 'kettle' from"),
        ("knnstore delete", "{url} --id a", "y\n", "Delete 1 of 1 record"),
        ("knnstore drop", "{url}", "y\n{path}\n", "Type its name"),
        ("knnstore drop", "{url}", "y\nanother\n", "Type its name"),
    ],
)
def test_questions(said, bridge, name, arguments, types, question):
    path, space = uuid.uuid4().hex, knnstore.EmbeddingSpace("colour", "sha256:colour")
    url = url_of(bridge[1], path)
    place = knnstore.StoreURL.parse(url)
    if name.startswith("knnseg"):
        place = place.child(space_name(space))
    with knnstore.open_store(place, knnstore.StoreSpec(3, "cosine", FIELDS, space)) as store:
        values = {field: [kind()] for field, kind in FIELDS.items()} | {"label": ["kettle"]}
        store.upsert(["a"], np.ones((1, 3), np.float32), values)
    code, text = said(name, arguments, url, types.format(path=path))
    assert_hidden(text)
    assert question in text and "***" in text and bool(code) == (types in ("n\n", "y\nanother\n"))


@pytest.mark.slow
def test_a_wrong_key_and_another_spec(said, bridge):
    url = url_of(bridge[1], "spec")
    with knnstore.open_store(url, knnstore.StoreSpec(3, "dot")) as store:
        store.upsert(["a"], np.ones((1, 3), np.float32))
    for name in OPENING:
        assert run_case(said, name, url_of(bridge[1], key=f"{ENCODED}x"))[0], name
        if name in SERVING:
            continue
        run_case(said, name, url)
        run_case(said, name, url.replace("/spec?", "/spec?m=9&"))


@pytest.mark.slow
def test_a_server_that_says_the_key(said, bridge):
    from urllib.request import Request, urlopen

    fault = {"calls": ".*", "code": "INTERNAL", "status": 500, "text": f"who is {KEY}? or {ENCODED}", "times": 10_000}
    address = f"http://127.0.0.1:{bridge[1]}/bridge"

    def play(faults):
        body = json.dumps({"faults": faults}).encode()
        headers = {"api-key": KEY.encode().decode("latin-1")}
        with urlopen(Request(address, body, headers, method="PUT"), timeout=30):  # our own
            pass

    play([fault])
    try:
        for name in OPENING:
            run_case(said, name, url_of(bridge[1], more="&retries=0"))
        with pytest.raises(KnnStoreError) as caught:
            knnstore.open_store(url_of(bridge[1], more="&retries=0"), knnstore.StoreSpec(3, "dot"))
        assert_hidden(everything(caught.value))
    finally:
        play([])


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["http", "grpc"])
@pytest.mark.parametrize("name", ["knnstore count", "knnstore copy", "knnseg concepts list"])
def test_stopped_while_the_server_says_nothing(frozen, name, transport):
    """Ctrl-C ends a command that waits, long before its own time limit."""
    port = frozen[transport]
    url = f"qdrant://127.0.0.1:{port}/c?transport={transport}&timeout=100&api_key={ENCODED}"
    module = "knnstore.cli" if name.startswith("knnstore") else "knnseg"
    words = [*name.split()[1:], *with_suffixes(CASES[name], url).replace("{url}", url).split()]
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-m", module, *words], stdout=pipe, stderr=pipe, text=True) as process:
        end = time.monotonic() + 60
        while port not in [there.raddr.port for there in psutil.Process(process.pid).net_connections() if there.raddr]:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.1)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130 and "interrupted" in err, err[-2000:]
    assert_hidden(out + err)


# -- what is made of a URL in a program --------------------------------------------------------------------------------


def parts_of(one):
    slots = [name for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ())]
    return {**getattr(one, "__dict__", {}), **{name: getattr(one, name) for name in slots if hasattr(one, name)}}


def assert_nothing_shown(*objects, least):
    """Not by any of them, nor by any part of them, as deep as it is ours."""
    met, left, shown = set(), list(objects), []
    while left:
        one = left.pop()
        if id(one) in met or not type(one).__module__.startswith(("knnstore", "knnseg")):
            continue
        met.add(id(one))
        shown += [repr(one), str(one)]
        if not isinstance(one, knnstore.Secret):
            shown.append(repr(parts_of(one)))
            left += parts_of(one).values()
    assert len(met) > least
    assert_hidden("\n".join(shown))


def test_objects_show_nothing(bridge):
    url, space = url_of(bridge[1], uuid.uuid4().hex), knnstore.EmbeddingSpace("colour", "sha256:colour")
    spec = knnstore.StoreSpec(3, "cosine", FIELDS, space)
    with knnstore.open_store(knnstore.StoreURL.parse(url).child(space_name(space)), spec) as store:
        assert_nothing_shown(store, knnstore.OpenRequest(store.url, spec), least=8)
        with ConceptDatabase.existing(url) as database:
            assert database.concepts() == ()
            assert_nothing_shown(database, least=10)


@pytest.mark.slow
def test_a_segmenter_shows_nothing(bridge):
    with Segmenter.from_config("tiny", url_of(bridge[1], uuid.uuid4().hex)) as segmenter:
        assert_nothing_shown(segmenter, least=15)
