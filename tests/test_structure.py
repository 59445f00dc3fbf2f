"""The shape of the code: which way imports point, what importing costs, what is public, how long things are."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Which rooms a room of knnseg looks into, beside `errors`, `later`, `checked`, `config` and the values of `data`, which all may use; see
# docs/design/index.md. `cli` may use everything, and nothing uses it.
KNNSEG = {
    "errors": "",
    "data": "",
    "checked": "",
    "config": "",
    "later": "",
    "stages": "",
    "method": "",
    "drawing": "",
    "models": "stages method",
    "database": "stages method",
    "export": "method drawing",
    "result": "method drawing export",
    "segmenter": "stages method models database result",
    "sheets": "database",
    "datasets": "stages method",
    "calibration": "stages method models database segmenter",
    "mining": "stages method drawing models datasets segmenter",
    "evaluation": "method drawing database result segmenter",
    "integrations": "method database result export segmenter datasets studio",
    "studio": "stages method drawing database result segmenter",
}
# The same inside a room: a module imports only modules to its left.
WITHIN = {
    "data": ["arrays", "vocabulary", "listing", "reading", "image", "features", "masks", "scores", "annotations"],
    "stages": ["hookspecs", "text", "protocols", "keys", "registry"],
    "method": ["pooling", "voting", "fusion", "edges", "cells", "painting", "instances", "boxes", "brush"],
    "database": [
        "naming",
        "changes",
        "schema",
        "parts",
        "spaces",
        "settings",
        "inventory",
        "originals",
        "adding",
        "searching",
        "examples",
        "undoing",
        "correcting",
        "concepts",
        "reembedding",
    ],
    "export": ["files", "coco", "maps", "polygons", "yolo", "label_studio", "libraries", "notebook", "run"],
    "calibration": ["leave_one_out", "recipes", "judging", "fitting"],
    "mining": ["clustering", "sharing", "regions", "pages", "sources", "discovering", "harvesting"],
    "studio": [
        "remembered",
        "maps",
        "pictures",
        "gallery",
        "evidence",
        "sheet",
        "review",
        "curation",
        "session",
        "answers",
        "guard",
        "server",
        "listening",
    ],
}
KNNSTORE = [
    "errors",
    "filters",
    "_filter_forms",
    "filter_text",
    "types",
    "url",
    "folders",
    "probe",
    "options",
    "remote",
    "_validation",
    "ranking",
    "_engine",
    "abc",
    "hookspecs",
    "memory",
    "_plugins",
    "transfer",
    "testing",
    "_options",
    "_transfer_commands",
    "_upkeep_commands",
    "_check_command",
    "_commands",
    "cli",
]


def modules(package):
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if not (len(parts) == 2 and parts[-1].startswith("__")):  # the doors may use everything
            yield path, parts[1]


def runtime_nodes(tree):
    """Every node but those below ``if TYPE_CHECKING``, which never runs."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from runtime_nodes(node)


def imported(path, package):
    for node in runtime_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == package else [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith(f"{package}."):
                yield name.removeprefix(f"{package}.").split(".")[0], node.lineno


def out_of_order(found, package, order):
    """Imports of something to the right, in (path, name) of what ``package`` is made of."""
    found = list(found)
    unknown = {name for _, name in found} - set(order)
    assert not unknown, f"give {unknown} a place in the order of {package}"
    return [
        f"{path.relative_to(ROOT)}:{line}: {name} imports {other}, which is to its right"
        for path, name in found
        for other, line in imported(path, package)
        if other in order and order.index(other) > order.index(name)
    ]


def test_imports_of_knnstore_point_one_way():
    assert not (wrong := out_of_order(modules("knnstore"), "knnstore", KNNSTORE)), "\n".join(wrong)


def test_rooms_of_knnseg_look_only_where_they_may():
    allowed = {
        room: {room, "errors", "data", "checked", "config", "later", *others.split()} for room, others in KNNSEG.items()
    }
    allowed |= {"errors": {"errors"}, "data": {"data", "errors"}, "cli": {"cli", *KNNSEG}}
    wrong, used = [], set()
    for path, room in modules("knnseg"):
        assert room in allowed, f"give {room} a place in the map"
        for other, line in imported(path, "knnseg"):
            used.add((room, other))
            if other not in allowed[room]:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {room} imports {other}")
    assert not wrong, "\n".join(wrong)
    unused = {(room, other) for room, others in KNNSEG.items() for other in others.split()} - used
    assert not unused, f"arrows on the map that nothing needs: {unused}"


@pytest.mark.parametrize("room", WITHIN)
def test_modules_of_a_room_import_one_way(room):
    found = [(path, path.stem) for path in sorted((ROOT / "knnseg" / room).glob("*.py")) if path.stem != "__init__"]
    assert not (wrong := out_of_order(found, f"knnseg.{room}", WITHIN[room])), "\n".join(wrong)


def test_knnseg_knows_no_backend_and_knnstore_no_knnseg():
    wrong = []
    for package, forbidden in (
        ("knnseg", {"faiss", "knnstore_faiss", "pymilvus", "qdrant_client"}),
        ("knnstore", {"knnseg", "torch", "faiss"}),
    ):
        for path, _ in modules(package):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                names = (
                    [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else [a.name for a in node.names]
                    if isinstance(node, ast.Import)
                    else []
                )
                wrong += [f"{path}:{node.lineno}: {n}" for n in names if n.split(".")[0] in forbidden]
    assert not wrong


def loaded_by(statement):
    """The top-level packages that a fresh interpreter has after a statement and had not before."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*{{m.split('.')[0] for m in set(sys.modules) - before}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split()) - set(sys.stdlib_module_names)


def test_importing_knnstore_loads_numpy_and_pluggy_only():
    assert loaded_by("import knnstore") <= {"knnstore", "numpy", "pluggy"}


def test_importing_knnseg_loads_nothing_heavy():
    assert loaded_by("import knnseg") <= {"knnseg"}
    heavy = {"torch", "open_clip", "timm", "torchvision", "faiss", "typer", "rich", "supervision", "transformers"}
    every = "import knnseg; [getattr(knnseg, name) for name in knnseg.__all__]"
    assert not loaded_by(every) & heavy


def test_every_module_says_what_is_public():
    missing, wrong = [], []
    for package in ("knnseg", "knnstore"):
        for path, _ in modules(package):
            if path.name == "cli.py" or "models" in path.parts or path.name == "fiftyone.py":  # which is not installed
                continue
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            module = importlib.import_module(name)
            if not hasattr(module, "__all__"):
                missing.append(name) if path.name != "__init__.py" or len(
                    ast.parse(path.read_text()).body
                ) > 1 else None
            else:
                wrong += [f"{name}.{n}" for n in module.__all__ if not hasattr(module, n)]
    assert not missing and not wrong


PUBLIC = {
    "knnstore": "Backend BackendInfo Capabilities CopyReport EmbeddingSpace EmbeddingStore ExportReport F Filter Hits "
    "KnnStoreError OpenRequest Records Secret StoreSpec StoreStats StoreURL VectorRecords backends collections content_checksum copy_store drop_store "
    "export_parquet get_backend hookimpl import_parquet open_store parse_filter ping register",
    "knnseg": "IGNORE BasePredictor ClassScores ConceptDatabase Config DerivedFeatures FeatureExtractor Features Image KnnSegError "
    "LabelledImage LabelledSegment MaskProposer Masks Segmentation Segmenter Vocabulary Whitened WithContext hookimpl "
    "load_image load_label_map presets register",
}  # fmt: skip


@pytest.mark.parametrize("package", PUBLIC)
def test_the_public_surface_is_what_we_mean_to_keep(package):
    assert sorted(importlib.import_module(package).__all__) == sorted(PUBLIC[package].split())


@pytest.mark.parametrize("package", PUBLIC)
def test_everything_public_is_documented(package):
    module = importlib.import_module(package)
    bare = []
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value):
            members = [m for n, m in vars(value).items() if not n.startswith("_") and inspect.isfunction(m)]
            bare += [f"{name}.{m.__name__}" for m in members if not inspect.getdoc(getattr(value, m.__name__))]
        if (inspect.isclass(value) or inspect.isfunction(value)) and not inspect.getdoc(value):
            bare.append(name)
    assert not bare


def test_modules_and_functions_stay_short():
    long = []
    sources = [p for package in ("knnseg", "knnstore") for p, _ in modules(package)] + list(
        (ROOT / "plugins").glob("*/src/**/*.py")
    )
    for path in sources:
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > 450:
            long.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                documented = node.body[0] if ast.get_docstring(node) else None
                length = (
                    node.end_lineno - node.lineno - (documented.end_lineno - documented.lineno if documented else 0)
                )
                if length > 40:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {length} lines")
    assert not long, "\n".join(long)


def test_fixtures_of_a_class_are_class_methods():
    """pytest has given up the other form, which is an error where warnings are; also in the tests that need a server."""
    wrong = []
    for path in [*ROOT.glob("k*/**/*.py"), *ROOT.glob("plugins/*/tests/**/*.py"), *ROOT.glob("tests/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and [argument.arg for argument in node.args.args[:1]] == ["self"]:
                said = " ".join(map(ast.unparse, node.decorator_list))
                if "fixture(scope='class'" in said:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}")
    assert not wrong, "\n".join(wrong)
