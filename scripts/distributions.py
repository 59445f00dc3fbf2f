"""Builds, checks and installs every distribution of this repository: what ``make dist`` runs.

    python scripts/distributions.py build FOLDER     an sdist of each, and a wheel made from that sdist
    python scripts/distributions.py check FOLDER     what an index and a user expect; exit code 1 and a list otherwise
    python scripts/distributions.py install FOLDER   all wheels and what they need, into an environment made for it

Only the last needs a network.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECTS = [ROOT / "knnstore", ROOT / "knnseg", *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]
LICENCE = (ROOT / "LICENSE").read_bytes()


def main() -> None:
    """Run one of the three."""
    commands = {"build": build, "check": check, "install": install}
    if len(sys.argv) != 3 or sys.argv[1] not in commands:
        sys.exit(f"expected one of {', '.join(commands)} and a folder, got {sys.argv[1:]}")
    commands[sys.argv[1]](Path(sys.argv[2]).resolve())


def build(folder: Path) -> None:
    """Make an sdist of each project, and its wheel from the sdist."""
    for project in PROJECTS:
        run(sys.executable, "-m", "build", "--quiet", "--no-isolation", "--outdir", folder, project)


def check(folder: Path) -> None:
    """Check names, versions, licences, type markers and requirements; end with a list of what is wrong."""
    files = sorted(folder.glob("*.whl")) + sorted(folder.glob("*.tar.gz"))
    run(sys.executable, "-m", "twine", "check", "--strict", *files)
    described = [
        tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"] for project in PROJECTS
    ]
    names, versions = [str(told["name"]) for told in described], {str(told["version"]) for told in described}
    wrong = [] if len(versions) == 1 else [f"expected one version everywhere, got {sorted(versions)}"]
    for told in described:
        stem = f"{told['name'].replace('-', '_')}-{told['version']}"
        for file in (folder / f"{stem}-py3-none-any.whl", folder / f"{stem}.tar.gz"):
            wrong += (
                [f"{file.name}: {problem}" for problem in problems(file, told, names)]
                if file.exists()
                else [f"{file.name}: is not there"]
            )
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{len(files)} files of {len(names)} distributions, version {versions.pop()}: all is well")


def problems(file: Path, told: dict[str, Any], ours: list[str]) -> Iterator[str]:
    """What is wrong with one file.

    Args:
        file: the wheel or the sdist.
        told: the table ``project`` of its pyproject.toml.
        ours: the names of all distributions made here.
    """
    held = contents(file)
    package = str(told["name"]).replace("-", "_")
    wheel = file.suffix == ".whl"
    metadata = read_metadata(held)
    for key, expected in (
        ("Name", told["name"]),
        ("Version", told["version"]),
        ("Requires-Python", told["requires-python"]),
        ("License-Expression", told["license"]),
    ):
        if metadata[key] != expected:
            yield f"{key}: expected {expected}, got {metadata[key]}"
    if not any(data == LICENCE for name, data in held.items() if name.rpartition("/")[2] == "LICENSE"):
        yield "expected the file LICENSE of the repository"
    if not any(name.rpartition("/")[2] == "py.typed" for name in held):
        yield "expected py.typed"
    yield from wrong_requirements(metadata, ours)
    if wheel and (
        strays := [
            n
            for n in held
            if not n.startswith((f"{package}/", f"{package}-"))
            or Path(n).name in ("pyproject.toml", "PKG-INFO", ".gitignore")
        ]
    ):
        yield f"expected only {package}/, got {strays}"


def wrong_requirements(metadata: Message, ours: list[str]) -> Iterator[str]:
    """A store never needs the segmentation; of ours, only knnstore is needed by others, and by all of them."""
    name = metadata["Name"]
    needed = {
        r.name
        for line in metadata.get_all("Requires-Dist", [])
        if not (r := Requirement(line)).marker or "extra" not in str(r.marker)
    }
    mentioned = {Requirement(line).name for line in metadata.get_all("Requires-Dist", [])}
    expected = set() if name == "knnstore" else {"knnstore"}
    if needed & set(ours) != expected:
        yield f"Requires-Dist: expected {sorted(expected)} of ours, got {sorted(needed & set(ours))}"
    if not mentioned & set(ours) <= {"knnstore", name}:
        yield f"extras: expected only knnstore of ours, got {sorted(mentioned & set(ours))}"


def contents(file: Path) -> dict[str, bytes]:
    """The files of a wheel or an sdist."""
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    with tarfile.open(file) as archive:
        return {m.name: found.read() for m in archive.getmembers() if (found := archive.extractfile(m)) is not None}


def read_metadata(held: dict[str, bytes]) -> Message:
    """What an index shows: METADATA of a wheel, PKG-INFO of an sdist."""
    name = next(n for n in held if n.endswith(".dist-info/METADATA") or (n.endswith("/PKG-INFO") and n.count("/") == 1))
    return BytesParser().parsebytes(held[name])


def install(folder: Path) -> None:
    """Install every wheel into an environment made for it, with what it needs, and import each from there."""
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        venv.create(home / "env", with_pip=True)
        python = home / "env" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        wheels = sorted(folder.glob("*.whl"))
        pip = (python, "-m", "pip", "--disable-pip-version-check", "--quiet")
        run(*pip, "install", "--constraint", ROOT / "constraints.txt", *wheels, cwd=home)
        run(*pip, "check", cwd=home)
        packages = ", ".join(project.name.replace("-", "_") for project in PROJECTS)
        run(python, "-c", f"import {packages}", cwd=home)
        print(f"{len(wheels)} wheels install and import")


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    """Run a program; end with its exit code where that is not 0."""
    if code := subprocess.run(command, cwd=cwd, check=False).returncode:
        sys.exit(code)


if __name__ == "__main__":
    main()
