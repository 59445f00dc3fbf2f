"""The documentation does what it says: its Python runs, its commands parse, its tables match the code, its links lead somewhere.

Python blocks of a page run in order, in one namespace, in a folder with the files that the pages speak of. Store URLs
below ``faiss:///data`` and ``memory:///`` are moved to a place of the test's own. A block that does not run must say why,
in a comment of the form ``<!-- not run: reason -->`` right before it.
"""

import dataclasses
import importlib
import inspect
import json
import pkgutil
import re
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

import knnseg
import knnstore
from knnseg import config
from knnseg.cli.commands import app as knnseg_app
from knnseg.datasets import CONCEPTS, RenderedScenes
from knnseg.stages import registry as stages
from knnstore._commands import app as knnstore_app

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page for of in ("*.md", "docs/**/*.md", "kn*/README.md", "plugins/*/README.md") for page in ROOT.glob(of)
)
FENCE = re.compile(
    r"(?P<note><!--(?P<reason>[^>]*)-->\n+)?^(?P<indent> *)```(?P<language>[\w-]*)[^\n]*\n(?P<code>.*?)^(?P=indent)```",
    re.MULTILINE | re.DOTALL,
)
LANGUAGES = {"python", "sh", "console", "toml", "text", "bibtex"}
COMMANDS = {name: typer.main.get_command(app) for name, app in (("knnseg", knnseg_app), ("knnstore", knnstore_app))}


def page_id(path):
    return path.relative_to(ROOT).as_posix()


def blocks(page, *languages):
    """(first line, code, reason not to run or None) of each fenced block."""
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        if found["language"] in languages:
            reason = re.fullmatch(r"\s*not run:\s*(\S.*?)\s*", found["reason"] or "", re.DOTALL)
            code = "\n".join(line.removeprefix(found["indent"]) for line in found["code"].split("\n"))
            yield text.count("\n", 0, found.start("code")) + 1, code, reason and reason[1]


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A folder as a reader would have it: photographs, label maps, a mask, annotations."""
    monkeypatch.chdir(tmp_path)
    numbers = {concept.name: i for i, concept in enumerate(CONCEPTS, 1)}
    scenes = RenderedScenes(4, seed=1, size=(96, 96), including=["kettle", "lava"])
    for folder in ("photos", "labels"):
        (tmp_path / folder).mkdir()
    for i, scene in enumerate(scenes):
        labels = np.zeros(scene.segments.shape, np.uint8)
        for segment in scene.info:
            labels[scene.segments == segment.id] = numbers[segment.label]
        Image.fromarray(scene.image).save(tmp_path / "photos" / f"{i}.png")
        Image.fromarray(labels).save(tmp_path / "labels" / f"{i}.png")
    kettle = next(segment.id for segment in scenes[0].info if segment.label == "kettle")
    Image.fromarray((scenes[0].segments == kettle).astype(np.uint8) * 255).save("kettle.png")
    Image.fromarray(scenes[0].image).save("photo.jpg")
    Image.fromarray(scenes[2].image).save("another.jpg")
    classes = [{"id": numbers[c.name], "name": c.name, "isthing": c.thing} for c in CONCEPTS]
    Path("classes.json").write_text(json.dumps(classes), encoding="utf-8")
    Path("my.toml").write_text('preset = "tiny"\n\n[retrieval]\nk = 8\n', encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page, "python"))], ids=page_id)
def test_python_runs(page, reader):
    namespace = {"__name__": f"page_{page.stem}"}
    for line, code, reason in blocks(page, "python"):
        if reason is None:
            moved = code.replace("faiss:///data", f"faiss://{reader}/data").replace("memory:///", f"memory://{reader}/")
            exec(compile("\n" * line + moved, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_block_is_of_a_known_language(page):
    """Python under another name, or under none, would not be run."""
    opened = re.findall(r"^ *```([^\n]*)$", page.read_text(encoding="utf-8"), re.MULTILINE)[::2]
    assert [language for language in opened if language.split(" ")[0] not in LANGUAGES] == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_comments_before_blocks_say_why(page):
    """A misspelt reason would silently be no reason; and a reason on a block of another language means nothing."""
    text = page.read_text(encoding="utf-8")
    said = len(re.findall(r"<!--\s*not[ _-]?run", text))
    assert said == sum(reason is not None for *_, reason in blocks(page, "python"))


def command_lines(page):
    """The command lines of the shell blocks of a page, continued lines joined."""
    for line, code, _ in blocks(page, "sh", "console"):
        prompted = any(text.startswith("$ ") for text in code.splitlines())
        for text in code.replace("\\\n", " ").splitlines():
            if not prompted or text.startswith("$ "):
                yield line, shlex.split(text.removeprefix("$ "), comments=True)


@pytest.mark.parametrize("page", [p for p in PAGES if any(command_lines(p))], ids=page_id)
def test_commands_and_options_exist(page):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for line, words in command_lines(page):
        if words and words[0] == "make":
            assert set(words[1:]) <= set(targets), f"{page_id(page)}:{line}"
        elif words and words[0] in COMMANDS and "--help" not in words:
            command, arguments = COMMANDS[words[0]], words[1:]
            context = command.make_context(words[0], arguments, resilient_parsing=True)
            while hasattr(command, "commands"):
                name, *arguments = arguments
                assert name in command.commands, f"{page_id(page)}:{line}: {words}"
                command = command.commands[name]
                # Parses as the command itself would, without running it: a wrong option or a missing argument raises.
                resilient = hasattr(command, "commands")
                context = command.make_context(name, list(arguments), parent=context, resilient_parsing=resilient)


def leaves(command, path):
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, child in command.commands.items():
        yield from leaves(child, f"{path} {name}")


def test_every_command_and_option_is_on_the_page_of_commands():
    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    for name, command in COMMANDS.items():
        for path, leaf in leaves(command, name):
            section = re.search(rf"^##+ `{path}`\n(.*?)(?=^##+ `|\Z)", text, re.MULTILINE | re.DOTALL)
            assert section, f"docs/cli.md: no section for {path}"
            options = [o for p in leaf.params for o in p.opts if o.startswith("--") and o != "--help"]
            assert [o for o in options if f"`{o}" not in section[1]] == [], f"docs/cli.md: {path}"


# -- configuration ----------------------------------------------------------------------------------------------------


def tables():
    """heading -> {key: default as written} of docs/configuration.md."""
    found, heading = {}, ""
    for line in (ROOT / "docs/configuration.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ").replace("`", "")
        elif row := re.match(r"\| `(\w+)` \| (?:`([^`]*)`|required) \|", line):
            found.setdefault(heading, {})[row[1]] = row[2]
    return found


def written(value):
    """A default as TOML would have it."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def sections():
    """heading -> {key: default as TOML} from the code."""
    expected = {}
    for part in dataclasses.fields(config.Config):
        default = part.default
        if dataclasses.is_dataclass(default) and not isinstance(default, config.StageConfig):
            expected[f"[{part.name}]"] = {
                f.name: written(getattr(default, f.name)) for f in dataclasses.fields(default)
            }
    for (kind, name), factory in stages._BUILTIN.items():
        call = pkgutil.resolve_name(factory) if isinstance(factory, str) else factory
        options = {
            key: None if p.default is p.empty else written(p.default)
            for key, p in inspect.signature(call).parameters.items()
            if key != "device"  # chosen when the pipeline is made, on the command line or by an argument
        }
        if options and hasattr(config.Config, kind):  # others are no part of a configuration
            expected[f'[{kind}] name = "{name}"'] = options
    return expected


def test_the_page_of_the_configuration_is_complete_and_right():
    assert tables() == sections()


@pytest.mark.parametrize("name", knnseg.presets())
def test_presets_are_shown_as_they_are(name):
    text = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    shown = re.search(rf"`knnseg/presets/{name}.toml`:\n+```toml\n(.*?)```", text, re.DOTALL)
    assert shown, f"docs/configuration.md does not show the preset {name}"
    assert tomllib.loads(shown[1]) == tomllib.loads((ROOT / f"knnseg/presets/{name}.toml").read_text(encoding="utf-8"))


# -- reference and links ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", [knnseg, knnstore])
def test_every_public_name_is_in_the_reference(package):
    text = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs/reference").glob("*.md"))
    missing = [
        name for name in package.__all__ if not re.search(rf"(^\s+- {name}$|::: [\w.]+\.{name}$)", text, re.MULTILINE)
    ]
    assert missing == []


@pytest.mark.parametrize("page", sorted((ROOT / "docs/reference").glob("*.md")), ids=page_id)
def test_the_reference_names_the_module_of_each_member(page):
    """What another module has only imported would be left out of the page without a word."""
    wrong = []
    for block in page.read_text(encoding="utf-8").split("\n::: ")[1:]:
        module = block.split()[0]
        for name in re.findall(r"^ {8}- (\w+)$", block, re.MULTILINE):
            wrong += [] if name in importlib.import_module(module).__all__ else [f"{module}.{name}"]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_relative_links_lead_somewhere(page):
    text = re.sub(r"^( *)```.*?^\1```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text)) + re.findall(r'(?:src|href)="([^"]+)"', text)
    relative = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:|#", link)]
    assert [link for link in relative if not (page.parent / link).exists()] == []


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.is_relative_to(ROOT / "docs")]
    assert [page for page in pages if not re.search(rf"[ :]{re.escape(page)}$", nav, re.MULTILINE)] == []
