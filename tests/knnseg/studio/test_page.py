"""The page in a real browser, on a real server: people click, teach, see the label change, undo and reload."""

import re
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from knnseg.studio.gallery import Gallery
from knnseg.studio.listening import Listener
from knnseg.studio.session import Studio
from tests.knnseg.studio.browser import chromium

pytestmark = pytest.mark.slow
TOKEN = "sw0rdf1sh-sw0rdf1sh"
TEXT = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, scenes):
    root = tmp_path_factory.mktemp("studio")
    (root / "photos").mkdir()
    for i, scene in enumerate(scenes):
        Image.fromarray(scene.image).save(root / "photos" / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def link(folder):
    """Of ``knnseg studio`` in a process of its own."""
    options = [
        "-s",
        f"faiss://{folder}/db",
        "--images",
        folder / "photos",
        "-c",
        "metal plate,clock,ball",
        "--writer",
        "ada",
    ]
    command = [sys.executable, "-m", "knnseg", "studio", "--preset", "tiny", "--port", "0", *map(str, options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            first = process.stdout.readline()
            assert first.startswith("open "), first
            yield first.split()[1]
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, 130)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(params=[1280, 390])
def page(request, browser):
    """A page of a width, on which nothing goes wrong unseen and nothing is cut off."""
    context = browser.new_context(viewport={"width": request.param, "height": 844})
    opened, wrong = context.new_page(), []
    opened.set_default_timeout(30_000)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    yield opened
    assert opened.evaluate("document.documentElement.scrollWidth") <= request.param
    context.close()
    assert not wrong


def ready(page, url, photograph=0):
    page.goto(url)
    expect(page.locator("body")).to_have_attribute("data-ready", "true", timeout=30_000)
    page.locator("#photographs button").nth(photograph).click()
    idle(page)


def idle(page):
    expect(page.locator("#segments li").first).to_be_visible()
    expect(page.locator("body:not([aria-busy])")).to_be_attached(timeout=60_000)


def at(page, scenes, label="kettle", number=0):
    """Where something is on the canvas."""
    scene = scenes[number]
    y, x = np.nonzero(scene.segments == next(s.id for s in scene.info if s.label == label))
    middle = np.argmin((y - y.mean()) ** 2 + (x - x.mean()) ** 2)
    box, (height, width) = page.locator("#canvas").bounding_box(), scene.segments.shape
    return {"x": (x[middle] + 0.5) * box["width"] / width, "y": (y[middle] + 0.5) * box["height"] / height}


def teach(page, name):
    page.get_by_label("What is selected").fill(name)
    page.get_by_role("button", name="Teach", exact=True).click()
    expect(page.locator("#status")).to_have_text(f"taught: {name}", timeout=60_000)


def seen(page):
    return page.locator("#segments .name").all_inner_texts()


def undo(page):
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#status")).to_contain_text("undone:", timeout=60_000)


def test_teach_ask_correct_undo_reload(page, link, scenes):
    ready(page, link)
    assert "kettle" not in seen(page)
    expect(page.get_by_role("button", name="Teach", exact=True)).to_be_disabled()
    page.locator("#canvas").click(position=at(page, scenes))
    teach(page, "kettle")
    assert "kettle" in seen(page) and page.locator("#before").input_value() == "earlier"
    assert page.locator("#names option[value=kettle]").count() == 1

    page.get_by_role("radio", name="Why?").check()
    page.locator("#canvas").click(position=at(page, scenes))
    expect(page.locator("#why h3").first).to_contain_text("kettle")
    card = page.locator("#why .card").first
    expect(card).to_contain_text("by ada")
    expect(card).to_contain_text("similarity")
    assert page.locator("#why .card img").first.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0

    page.get_by_label("What it is instead").fill("lamp")
    page.get_by_role("button", name="Correct").click()
    expect(page.locator("#status")).to_have_text("corrected: lamp", timeout=60_000)
    assert "lamp" in seen(page) and "kettle" not in seen(page)
    undo(page)
    assert "kettle" in seen(page) and "lamp" not in seen(page)

    page.reload()
    idle(page)
    assert "kettle" in seen(page)
    undo(page)
    assert "kettle" not in seen(page)
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()


def test_box_brush_and_keyboard_select(page, link, scenes):
    ready(page, link)
    canvas, clear = page.locator("#canvas"), page.get_by_role("button", name="Clear")
    page.get_by_role("radio", name="Box").check()
    box, middle = canvas.bounding_box(), at(page, scenes)
    for tool, path in (("Box", [(-0.15, -0.2), (0.15, 0.2)]), ("Brush", [(0, 0), (0.1, 0)])):
        page.get_by_role("radio", name=tool).check()
        expect(clear).to_be_disabled()
        places = [
            (box["x"] + middle["x"] + dx * box["width"], box["y"] + middle["y"] + dy * box["height"]) for dx, dy in path
        ]
        page.mouse.move(*places[0])
        page.mouse.down()
        page.mouse.move(*places[1])
        page.mouse.up()
        expect(clear).to_be_enabled()
        clear.click()
    page.get_by_role("radio", name="Regions").check()
    canvas.focus()
    for key in ("ArrowRight", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    expect(clear).to_be_enabled()
    page.keyboard.press("Escape")
    expect(clear).to_be_disabled()


def test_names_are_text_and_concepts_are_kept_in_order(page, link, scenes):
    ready(page, link, 1)
    page.locator("#canvas").click(position=at(page, scenes, number=1))
    teach(page, TEXT)
    page.get_by_role("tab", name="Concepts").click()
    expect(page.locator("#concept-list .name")).to_have_text([TEXT])
    page.get_by_role("button", name=f"Rename {TEXT}", exact=True).click()
    page.get_by_label("New name").fill("pot")
    page.get_by_role("dialog").get_by_role("button", name="Rename").click()
    expect(page.locator("#concept-list .name")).to_have_text(["pot"])
    page.get_by_role("button", name="Merge pot into another").click()
    page.get_by_role("combobox", name="Into").fill("kettles")
    page.get_by_role("dialog").get_by_role("button", name="Merge").click()
    expect(page.get_by_role("alert")).to_contain_text("expected one of pot, got kettles")
    page.get_by_role("button", name="Look for them").click()
    expect(page.locator("#found")).to_contain_text("No two concepts are alike")
    page.get_by_role("button", name="Remove this example of pot").click()
    expect(page.locator("#concept-list")).to_have_text("Nothing is taught yet.")
    for there in (["pot"], [TEXT], []):
        undo(page)
        expect(page.locator("#concept-list .name")).to_have_text(there)


def test_a_photograph_is_dropped(page, link, tmp_path, scenes):
    name = f"dropped {page.viewport_size['width']}.png"
    Image.fromarray(scenes[2].image[::-1]).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"not an image")
    ready(page, link)
    page.locator("#file").set_input_files(tmp_path / name)
    width = page.viewport_size["width"]
    expect(page.locator("#canvas")).to_have_attribute("aria-label", re.compile(f"Photograph dropped-{width}"))
    page.locator("#file").set_input_files(tmp_path / "broken.png")
    expect(page.get_by_role("alert")).to_contain_text("broken.png: expected an image")
    page.get_by_role("button", name="Close this message").click()
    expect(page.get_by_role("alert")).to_be_hidden()


@pytest.fixture
def guarded(database, make_segmenter, scene, tmp_path):
    """Of a read-only page that other machines reach, by a model that knows colours."""
    (tmp_path / "photos").mkdir()
    example = scene(1)
    Image.fromarray(example.image).save(tmp_path / "photos" / "scene.png")
    database.add(example, writer="ada")
    studio = Studio(make_segmenter(database), Gallery(tmp_path / "photos"), read_only=True)
    with Listener("0.0.0.0", 0, TOKEN) as listener:
        thread = threading.Thread(target=listener.serve, args=[studio])
        thread.start()
        yield re.sub("//[^:]+", "//127.0.0.1", listener.link)
        listener.stop()
        thread.join()


@pytest.mark.parametrize("store_url", ["memory"], indirect=True)
def test_read_only_and_by_its_link(page, guarded):
    page.goto(guarded.partition("#")[0])
    expect(page.get_by_role("alert")).to_contain_text("token: expected the link")
    page.goto("about:blank")
    ready(page, guarded)
    assert TOKEN not in page.url
    for button in ("Teach", "Undo", "Clear"):
        expect(page.get_by_role("button", name=button, exact=True)).to_be_hidden()
    expect(page.get_by_text("read-only", exact=True)).to_be_visible()
    page.locator("#canvas").click()
    expect(page.locator("#why h3").first).to_be_visible()
    expect(page.locator("#why .card").first).to_contain_text("by ada")
    expect(page.get_by_role("button", name=re.compile("Correct|Remove|Rename"))).to_have_count(0)
    page.reload()
    expect(page.locator("#photographs button")).to_have_count(1)
