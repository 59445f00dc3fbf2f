"""Commands in processes of their own: terminals of other encodings, and what a command may load."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from knnseg import ConceptDatabase
from knnseg.database.schema import FIELDS
from knnseg.errors import ConfigError
from knnstore import open_store
from knnstore.errors import StoreNotFoundError

LABEL = "やかん é ☕ 🫖"
ENCODINGS = [{"PYTHONIOENCODING": "cp1252"}, {"PYTHONIOENCODING": "latin-1"}, {"PYTHONIOENCODING": "ascii"},
             {"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]  # fmt: skip


def process(module, *arguments, **environment):
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHON"))}
    command = [sys.executable, "-m", module, *(str(a) for a in arguments)]
    return subprocess.run(command, capture_output=True, env=plain | environment, check=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A database in which a model without weights has one example."""
    from ..conftest import ColourFeatures, make_scene

    url = f"faiss://{tmp_path_factory.mktemp('db')}/db"
    with ConceptDatabase.open(url, ColourFeatures()) as database:
        database.add_masks(make_scene(1).image, np.ones((1, 48, 64), bool), [LABEL])
    return url


@pytest.mark.parametrize("environment", ENCODINGS, ids=lambda e: " ".join(f"{k}={v}" for k, v in e.items()))
def test_a_label_that_the_terminal_has_no_letters_for(store, environment):
    listed = process("knnseg", "concepts", "list", "-s", store, **environment)
    assert listed.returncode == 0 and b"Traceback" not in listed.stderr, listed.stderr.decode()
    machine = process("knnseg", "concepts", "list", "-s", store, "--json", **environment)
    assert json.loads(machine.stdout.decode("utf-8"))[0]["label"] == LABEL
    if environment.get("PYTHONUTF8") == "0":
        return  # in which Python takes the label from the command line as bytes without a meaning
    for options in ([], ["--json"]):
        counted = process("knnstore.cli", "count", store, "--where", f'label == "{LABEL}"', *options, **environment)
        assert counted.returncode == 0, counted.stderr.decode()
        missing = process("knnstore.cli", "info", f"{store}/{LABEL}", *options, **environment)
        assert missing.returncode == 1 and b"Traceback" not in missing.stderr, missing.stderr.decode()


RUN = """
import json, sys
from knnseg.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["knnseg", *arguments]
    try:
        main()
    except SystemExit as stop:
        code = stop.code or 0
    else:
        code = 0
    heavy = {"torch", "torchvision", "open_clip", "timm", "transformers"} & set(sys.modules)
    print("exit code", code, "loaded", sorted(heavy), file=sys.stderr)
"""


def one_after_another(*commands, **environment):
    """Several commands in one process; what each left to say on standard error ends with its code and what is loaded."""
    given = json.dumps([[str(a) for a in arguments] for arguments in commands])
    done = subprocess.run(
        [sys.executable, "-c", RUN, given], capture_output=True, env=os.environ | environment, check=False
    )
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    return done.stdout.decode(encoding), done.stderr.decode(encoding)


def test_segmenting_prints_any_label(tmp_path):
    from PIL import Image

    from ..conftest import make_scene

    Image.fromarray(make_scene(1).image).save(tmp_path / "1.png")
    plain = ["segment", tmp_path / "1.png", "-c", f"{LABEL},sand", "-o", tmp_path / "out"]
    printed, said = one_after_another(plain, [*plain, "--json"], PYTHONIOENCODING="cp1252")
    assert said.count("exit code 0") == 2 and "Traceback" not in said, said
    assert json.loads(printed[printed.index("{\n") :])["classes"] == [LABEL, "sand"]


LIGHT = [
    ("--help", 0), ("concepts --help", 0), ("segment --help", 0), ("datasets", 0), ("models", 0),
    ("concepts list -s {store}", 0), ("concepts list -s {store} --json", 0),
    ("concepts rename {label} pot -s {copy}", 0), ("concepts merge pot --into kettle -s {copy}", 0),
    ("concepts remove kettle -s {copy} --yes", 0), ("concepts list -s {store} --space none", 1),
    ("concepts list -s {store} --space a --preset tiny", 2),
    ("add", 2), ("add a.png -s {store}", 2), ("add a.png --mask b.png --label a -s {store}", 1),
    ("add -s {store} --pairs a b", 2), ("add -s {store} --coco-panoptic a b c", 1), ("add -s fais:///x --coco-panoptic a b c", 1),
    ("segment", 2), ("segment a.png", 2), ("segment a.png -c a,a", 1), ("segment a.png -c a -s fais:///x", 1),
    ("segment a.png -c a -s faiss:///nowhere/at/all", 1), ("segment a.png -c a -p huge", 1),
    ("eval -s {store}", 2), ("calibrate -s faiss:///nowhere/at/all", 1), ("calibrate", 2), ("calibrate -s {store} --on x", 2),
    ("concepts reembed -s faiss:///nowhere/at/all", 1),
]  # fmt: skip


@pytest.fixture(scope="module")
def copy(store, tmp_path_factory):
    from ..conftest import ColourFeatures, make_scene

    url = f"faiss://{tmp_path_factory.mktemp('db')}/copy"
    with ConceptDatabase.open(url, ColourFeatures()) as database:
        database.add_masks(make_scene(1).image, np.ones((1, 48, 64), bool), ["tea"])
    return url


def test_what_needs_no_model_loads_none(store, copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands = [[part.format(store=store, copy=copy, label="tea") for part in text.split()] for text, _ in LIGHT]
    _, said = one_after_another(*commands)
    ends = [line for line in said.splitlines() if line.startswith("exit code ")]
    expected = [f"exit code {code} loaded []" for _, code in LIGHT]
    wrong = [pair for pair in zip(LIGHT, ends, expected, strict=True) if pair[1] != pair[2]]
    assert not wrong, said


@pytest.mark.parametrize("module", ["knnseg.cli", "knnstore.cli"])
@pytest.mark.parametrize(("given", "kept"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "active"}, "active")])
def test_a_command_lets_idle_threads_sleep_unless_told_otherwise(module, given, kept):
    script = f"import os, sys; from {module} import main\ntry: main()\nfinally: print(os.environ['OMP_WAIT_POLICY'])"
    plain = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    command = [sys.executable, "-c", script, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=plain | given, check=False)
    assert done.stdout.splitlines()[-1] == kept, done.stderr


@pytest.mark.parametrize("arguments", ["--help", "segment --help", "models", "segment", "segment --nope"])
def test_help_and_usage_errors_load_no_imaging_library_either(arguments):
    script = "import sys; from knnseg.cli import main\ntry: main()\nfinally: print('loaded', sorted({'scipy', 'skimage', 'PIL'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments.split()], capture_output=True, text=True, check=False
    )
    assert done.stdout.endswith("loaded []\n"), done.stdout + done.stderr


def test_a_database_without_a_model(store, scene, tmp_path, colour_features):
    with ConceptDatabase.existing(store, read_only=True) as database:
        assert [c.label for c in database.concepts()] == [LABEL] and database.store.spec.fields == FIELDS
        with pytest.raises(ConfigError, match="opened without"):
            database.add(scene(1))
    url = f"faiss://{tmp_path}/db"
    with pytest.raises(StoreNotFoundError, match="nothing there"):
        ConceptDatabase.existing(url)
    for name in ("one", "two"):
        ConceptDatabase.open(url, colour_features(name=name)).close()
    with pytest.raises(ConfigError, match=r"one-.*two-.*--space"):
        ConceptDatabase.existing(url)
    with ConceptDatabase.open(url, colour_features(name="two"), create=False) as database:
        name = database.store.url.path.rsplit("/", 1)[-1]
        database.add(scene(1))
    with ConceptDatabase.existing(url, name) as database:
        assert len(database.concepts()) == 3
        with open_store(database.store.url, read_only=True) as direct:
            assert direct.count() == 3
