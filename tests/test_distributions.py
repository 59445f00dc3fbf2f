"""What users install: every distribution is built, checked, and used where the repository is not on the path."""

import importlib.metadata
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts/distributions.py"
NOT_FOR_STORES = [
    "knnseg",
    "PIL",
    "skimage",
    "scipy",
    "pycocotools",
    "torch",
    "torchvision",
    "transformers",
    "matplotlib",
]

KIT = """
import uuid
from pathlib import Path

import knnstore, knnstore_faiss
import pytest
from knnstore.testing import StoreTests

assert all(Path(m.__file__).is_relative_to({env!r}) for m in (knnstore, knnstore_faiss)), knnstore.__file__

class TestMemory(StoreTests):
    @pytest.fixture
    def store_url(self):
        return f"memory:///{{uuid.uuid4().hex}}"

class TestFaiss(StoreTests):
    @pytest.fixture
    def store_url(self, tmp_path):
        return f"faiss://{{tmp_path}}/store"
"""


def run(*command, cwd):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def script(command, folder):
    return run(sys.executable, SCRIPT, command, folder, cwd=ROOT)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("all distributions")
    code, said = script("build", folder)
    assert code == 0, said
    return folder


def wheel(folder, name):
    return next(folder.glob(f"{name.replace('-', '_')}-*.whl"))


def environment(folder, wheels):
    """An environment with these wheels, and nothing else; its python, and where packages go."""
    venv.create(folder)
    python = folder / "bin/python"
    site = next(folder.glob("lib/python*/site-packages"))
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    code, said = run(*pip, "install", "--quiet", "--no-index", "--no-deps", *wheels, cwd=folder)
    assert code == 0, said
    return python, site


def test_everything_is_built_and_checked(built):
    code, said = script("check", built)
    assert code == 0 and "all is well" in said, said


@pytest.mark.parametrize("package", ["knnstore", "knnseg"])
def test_a_wheel_holds_the_package_and_no_more(built, package):
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", package], cwd=ROOT, capture_output=True, text=True
    )
    ours = {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    with zipfile.ZipFile(wheel(built, package)) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == ours - {f"{package}/{name}" for name in ("pyproject.toml", "README.md", "LICENSE")}


@pytest.mark.parametrize(
    ("member", "old", "new", "said"),
    [
        ("METADATA", b"Version: 0.1.0", b"Version: 0.2.0", "Version: expected 0.1.0, got 0.2.0"),
        ("METADATA", b"Requires-Python: >=3.11", b"Requires-Python: >=3.9", "Requires-Python: expected >=3.11"),
        ("METADATA", b"Requires-Dist: knnstore", b"Requires-Dist: knnseg", "expected ['knnstore'] of ours, got ['knnseg']"),
        ("LICENSE", b"Apache", b"Other", "expected the file LICENSE"),
        ("py.typed", None, None, "expected py.typed"),
        ("WHEEL", None, "pyproject.toml", "expected only knnstore_qdrant/"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found(built, tmp_path, member, old, new, said):
    for file in built.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    changed = wheel(tmp_path, "knnstore-qdrant")
    with zipfile.ZipFile(wheel(built, "knnstore-qdrant")) as source, zipfile.ZipFile(changed, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.rpartition("/")[2] == member:
                assert old is None or old in data
                if old is not None:
                    data = data.replace(old, new)
                elif new is None:
                    continue
                else:
                    target.writestr(new, b"")
            target.writestr(name, data)
    code, output = script("check", tmp_path)
    assert code == 1 and said in output, output


def needed_by(requirement, built):
    """The names of all distributions that a requirement brings, by the metadata of our wheels and of what is installed here."""
    found, waiting = {}, [Requirement(requirement)]
    while waiting:
        asked = waiting.pop()
        name = re.sub(r"[-_.]+", "-", asked.name).lower()
        extras = frozenset(asked.extras) - found.get(name, frozenset())
        if name in found and not extras:
            continue
        found[name] = found.get(name, frozenset()) | extras
        for line in requires(name, built):
            next_one = Requirement(line)
            if next_one.marker is None or any(next_one.marker.evaluate({"extra": extra}) for extra in {"", *extras}):
                waiting.append(next_one)
    return set(found)


def requires(name, built):
    for file in built.glob(f"{name.replace('-', '_')}-*.whl"):
        (info,) = (path for path in zipfile.Path(file).iterdir() if path.name.endswith(".dist-info"))
        return importlib.metadata.PathDistribution(info).requires or []
    return importlib.metadata.requires(name) or []


def test_a_store_alone_brings_nothing_of_images(built, tmp_path):
    """The environment has what the metadata of the two asks for and no more, and the store works in it."""
    needed = needed_by("knnstore", built) | needed_by("knnstore-qdrant", built)
    assert (
        needed & {"knnseg", "pillow", "scikit-image", "scipy", "pycocotools", "torch", "torchvision", "matplotlib"}
        == set()
    )
    python, site = environment(tmp_path / "env", [wheel(built, "knnstore"), wheel(built, "knnstore-qdrant")])
    for name in needed - {"knnstore", "knnstore-qdrant"}:
        found = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in found.files if file.parts[0] not in ("..", "__pycache__")}:
            if not (site / top).exists():
                (site / top).symlink_to(found.locate_file(top))
    program = f"""
import importlib.util, knnstore, knnstore_qdrant, numpy
there = [name for name in {NOT_FOR_STORES} if importlib.util.find_spec(name)]
assert not there, there
assert [b.name for b in knnstore.backends()] == ["memory", "qdrant"], knnstore.backends()
assert knnstore.get_backend("qdrant").name == "qdrant"
knnstore.open_store("memory:///x", knnstore.StoreSpec(dim=2)).upsert(["a"], numpy.ones((1, 2), numpy.float32))
"""
    code, said = run(python, "-I", "-c", program, cwd=tmp_path)
    assert code == 0, said


@pytest.mark.slow
def test_the_conformance_kit_runs_from_the_wheels(built, tmp_path):
    """A memory store and a FAISS store, with the packages that are installed here and without this repository."""
    env = tmp_path / "env"
    python, site = environment(env, sorted(built.glob("*.whl")))
    others = [path for path in sys.path if path.endswith("site-packages")]
    (site / "zz_others.pth").write_text("\n".join(others))
    (tmp_path / "test_kit.py").write_text(KIT.format(env=str(env)))
    code, said = run(python, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_kit.py", cwd=tmp_path)
    assert code == 0 and re.search(r"\d{3} passed", said), said[-3000:]


def test_every_licence_is_the_one_of_the_repository():
    """They are copies, because an sdist takes only what is in its folder."""
    projects = [path.parent for path in [*ROOT.glob("kn*/pyproject.toml"), *ROOT.glob("plugins/*/pyproject.toml")]]
    assert len(projects) >= 5
    assert {(project / "LICENSE").read_bytes() for project in projects} == {(ROOT / "LICENSE").read_bytes()}
