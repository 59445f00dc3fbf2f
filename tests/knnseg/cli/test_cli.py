"""The command as a person and as a program would use it, with the bundled model."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image
from typer.testing import CliRunner

from knnseg.cli import main
from knnseg.cli.commands import app
from knnseg.datasets import RenderedScenes
from knnseg.errors import VocabularyError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rendered scenes as pairs of image and label map."""
    root = tmp_path_factory.mktemp("scenes with space")
    scenes = RenderedScenes(6, seed=5, size=(96, 96), including=["kettle", "lava"])
    names = list(scenes.classes)
    (root / "images").mkdir()
    (root / "labels").mkdir()
    for i, scene in enumerate(scenes):
        Image.fromarray(scene.image).save(root / "images" / f"{i}.png")
        Image.fromarray((scene.semantic(names) + 1).astype(np.uint8)).save(root / "labels" / f"{i}.png")
    classes = [{"id": i, "name": n, "isthing": n in scenes.thing_classes} for i, n in enumerate(names, 1)]
    (root / "classes.json").write_text(json.dumps(classes))
    kettle = (scenes[0].semantic(["kettle"]) == 0).astype(np.uint8) * 255
    Image.fromarray(kettle).save(root / "kettle.png")
    return root


@pytest.fixture(scope="module")
def store(folder, run):
    url = f"faiss://{folder}/store"
    pairs = ["--pairs", folder / "images", folder / "labels", "--class-file", folder / "classes.json"]
    added = json.loads(run("add", "--store", url, *pairs, "--json").stdout)
    assert added["images"] == 6 and added["added"] > 10
    again = json.loads(run("add", "--store", url, *pairs, "--json").stdout)
    assert again["added"] == 0 and again["present"] == added["added"]
    return url


def test_segment_in_a_second_process(folder, store, tmp_path):
    command = [sys.executable, "-m", "knnseg", "segment", folder / "images" / "0.png", "--store", store]
    command += ["--classes", "kettle, grass, lava", "--out", tmp_path, "--json"]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert result["classes"] == ["kettle", "grass", "lava"]
    assert all((tmp_path / kind / "0.png").exists() for kind in ("overlay", "semantic", "panoptic"))
    assert set(result["files"]) == {"semantic", "panoptic"} and all(Path(f).exists() for f in result["files"].values())
    assert result["images"][0]["segments"]


def test_adding_with_another_preset_than_before_is_said_once(folder, tmp_path, run):
    """Whoever forgets --preset teaches a database beside the one that is meant."""
    from knnseg import ConceptDatabase

    from ..conftest import ColourFeatures, make_scene

    url = f"faiss://{tmp_path}/store"
    with ConceptDatabase.open(url, ColourFeatures()) as database:
        database.add_masks(make_scene(1).image, np.ones((1, 48, 64), bool), ["tea"])
    one = ["add", "--store", url, folder / "images" / "0.png", "--mask", folder / "kettle.png", "--label", "kettle"]
    assert "those of tiny are kept apart" in run(*one).stderr
    assert "kept apart" not in run(*one).stderr


def test_segment_prints_a_table(folder, store, tmp_path, run):
    output = run("segment", folder / "images" / "0.png", "--store", store, "--out", tmp_path).stdout
    assert "segments" in output and "kettle" in output and "overlay/0.png" in output and "panoptic.json" in output


def test_segment_names_classes_without_examples(folder, store, tmp_path, run):
    """A comma inside a name cuts it in two, and both halves would be used without a word."""
    done = run("segment", folder / "images" / "0.png", "--store", store, "-o", tmp_path, "-c", "kettle,a, b!")
    assert "no examples, so from the base alone: 'a', 'b!'" in done.stderr


def test_images_of_one_name_do_not_overwrite_each_other(folder, tmp_path, run):
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / "0.png"
    twin.write_bytes((folder / "images" / "1.png").read_bytes())
    run("segment", folder / "images" / "0.png", twin, "-c", "grass,sand", "-o", tmp_path / "out", "--json")
    assert {path.name for path in (tmp_path / "out" / "overlay").iterdir()} == {"0.png", "0-2.png"}


def test_a_misspelt_format_is_said_first(folder, tmp_path, run):
    done = run("segment", folder / "images" / "0.png", "-c", "grass", "-o", tmp_path, "-f", "yolo,panotpic", code=2)
    assert "Did you mean 'panoptic'?" in done.stderr and not list(tmp_path.iterdir())


def test_segment_without_a_store_uses_the_base(folder, tmp_path, run):
    result = json.loads(
        run("segment", folder / "images" / "0.png", "-c", "grass,sand", "-o", tmp_path, "--json").stdout
    )
    assert result["classes"] == ["grass", "sand"]


def test_eval(folder, store, run):
    arguments = ["--pairs", folder / "images", folder / "labels", "--class-file", folder / "classes.json"]
    result = json.loads(run("eval", "--store", store, *arguments, "--json").stdout)
    assert result["images"] == 6 and result["final"]["miou"] > result["base"]["miou"]
    assert "pixel accuracy" in run("eval", "--store", store, *arguments).stdout


def test_eval_of_many_classes_prints_a_few_and_all_when_asked(folder, store, run):
    arguments = [
        "eval",
        "--store",
        store,
        "--pairs",
        folder / "images",
        folder / "labels",
        "--class-file",
        folder / "classes.json",
    ]
    few, every = run(*arguments).stdout, run(*arguments, "--per-class").stdout
    assert "most improved" in few and "worst" in few and "PQ things" in few and "most improved" not in every
    assert every.count("\n") > few.count("\n")
    alone = run(*arguments[:1], *arguments[3:], "--classes", "grass,sand,lava", "--limit", 2).stdout
    assert "2 images, 3 classes" in alone and "gain" not in alone
    said = run(*arguments[:1], *arguments[3:], "--classes", "grass, lav", "--limit", 1).stderr
    assert "'lav' is not a class of these labels. Did you mean 'lava'?" in said and "grass" not in said


def test_info_and_concepts_count_examples_and_not_their_parts(folder, tmp_path, run):
    import knnstore

    parts, url = tmp_path / "parts.toml", f"faiss://{tmp_path}/parts"
    parts.write_text('preset = "tiny"\n[keys]\nparts = 4\n', encoding="utf-8")
    pairs = ["--pairs", folder / "images", folder / "labels", "--class-file", folder / "classes.json"]
    added = json.loads(run("add", "--store", url, "--preset", parts, *pairs, "--json").stdout)["added"]
    (space,) = json.loads(run("info", "-s", url, "--json").stdout)
    concepts = json.loads(run("concepts", "list", "-s", url, "--json").stdout)
    assert space["examples"] == added == sum(concept["count"] for concept in concepts)
    assert f"{added} examples" in run("info", "-s", url).stdout
    with knnstore.open_store(f"{url}/{space['space']}") as opened:
        assert opened.count() == sum(concept["keys"] for concept in concepts) > added


def test_half_precision_is_said_once_and_used_ever_after(folder, store, tmp_path, run):
    """With the URL of a new database; it may be said again, and what it changes of the maps is next to nothing."""
    import knnstore

    half = f"faiss://{tmp_path}/half"
    pairs = ["--pairs", folder / "images", folder / "labels", "--class-file", folder / "classes.json"]
    run("add", "--store", f"{half}?dtype=float16", *pairs)
    assert json.loads(run("add", "--store", half, *pairs, "--json").stdout)["added"] == 0
    run("concepts", "rename", "--store", f"{half}?dtype=float16", "lava", "magma")
    run("concepts", "rename", "--store", half, "magma", "lava")
    dtypes = [knnstore.open_store(place).spec.dtype for place in knnstore.collections(half)]
    assert sorted(dtypes) == ["float16", "float32"]  # the embeddings, and the changes of concepts
    for url in (half, f"{half}?dtype=float16"):
        assert "128 numbers in half precision, " in run("info", "-s", url).stdout
        assert json.loads(run("info", "-s", url, "--json").stdout)[0]["dtype"] == "float16"
    maps = []
    for number, url in enumerate((store, half, f"{half}?dtype=float16")):
        run(
            "segment",
            folder / "images" / "0.png",
            "-s",
            url,
            "-c",
            "kettle, grass, lava",
            "--out",
            tmp_path / str(number),
        )
        maps.append(np.array(Image.open(tmp_path / str(number) / "semantic" / "0.png")))
    assert (maps[1] == maps[2]).all() and (maps[0] == maps[1]).mean() > 0.98
    refused = run("add", "--store", f"{half}?dtype=float32", *pairs, code=1)
    assert "dtype float16 (stored)" in str(refused.exception)


def test_adding_a_class_that_the_data_set_has_not_is_an_error(folder, tmp_path):
    arguments = ["add", "-s", f"faiss://{tmp_path}/s", "--pairs", folder / "images", folder / "labels"]
    arguments += ["--class-file", folder / "classes.json", "--classes", "lava,kettel"]
    with pytest.raises(VocabularyError, match=r"such as 'kettle'.*got 'kettel'"):
        CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def test_names_and_paths_with_brackets_are_printed_as_they_are(folder, store, tmp_path, run):
    out, entries = tmp_path / "[b] report", json.loads((folder / "classes.json").read_text())
    renamed = [entry | {"name": f"[/i] {entry['name']} [x]"} for entry in entries]
    (tmp_path / "classes.json").write_text(json.dumps(renamed))
    pairs = ["--pairs", folder / "images", folder / "labels", "--class-file", tmp_path / "classes.json"]
    output = run("eval", *pairs, "--per-class", "--limit", "1", "--out", out).stdout
    assert "[/i] " in output and " [x]" in output and f"report: {out / 'report.html'}" in output


def test_eval_leaves_a_report_and_goes_on_there(folder, store, tmp_path, run):
    pairs = ["--pairs", folder / "images", folder / "labels", "--class-file", folder / "classes.json"]
    arguments = ["eval", "-s", store, *pairs, "--out", tmp_path / "out", "--pictures", 1, "--json"]
    first = json.loads(run(*arguments, "--limit", 2).stdout)
    assert first["images"] == 2 and first["settings"]["pairs"] == [str(folder / "images"), str(folder / "labels")]
    whole = run(*arguments).stdout
    result = json.loads(whole)
    assert (result["images"], result["settings"]) == (6, first["settings"])
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == result
    assert "Most improved" in (tmp_path / "out" / "report.html").read_text()
    assert (tmp_path / "out" / "progress.jsonl").read_bytes().count(b"\n") == 7
    del result["settings"]
    assert json.loads(run("eval", "-s", store, *pairs, "--json").stdout).items() >= result.items()
    refused = CliRunner().invoke(app, [str(a) for a in [*arguments, "--ignore", "255"]])
    assert refused.exit_code == 1 and 'ignore: was "0,255", is "255"' in str(refused.exception)
    assert json.loads(run(*arguments, "--ignore", "255,0", "--limit", 1, "--restart").stdout)["images"] == 1


def test_concepts(folder, tmp_path, run):
    url = f"faiss://{tmp_path}/one"
    one = ["--mask", folder / "kettle.png", "--label", "kettle", "--thing"]
    assert "examples added: 1," in run("add", folder / "images" / "0.png", "-s", url, *one).stdout
    assert json.loads(run("concepts", "list", "-s", url, "--json").stdout) == [
        {"label": "kettle", "count": 1, "things": 1, "aliases": [], "keys": 1, "thing": True}
    ]
    assert "'pot'" in run("concepts", "rename", "kettle", "pot", "-s", url).stdout
    assert json.loads(run("concepts", "merge", "pot", "--into", "vessel", "-s", url, "--json").stdout) == {"merged": 1}
    assert "vessel" in run("concepts", "list", "-s", url).stdout
    refused = CliRunner().invoke(app, ["concepts", "remove", "vessel", "-s", url], input="n\n")
    assert refused.exit_code == 1 and "vessel" in run("concepts", "list", "-s", url).stdout
    run("concepts", "remove", "vessel", "-s", url, "--yes")
    assert json.loads(run("concepts", "list", "-s", url, "--json").stdout) == []


def test_long_names_are_listed_whole(folder, tmp_path, run):
    url = f"faiss://{tmp_path}/long"
    names = [f"{'a very long name ' * 12}{end}" for end in ("one", "other")]
    for name in names:
        run("add", folder / "images" / "0.png", "-s", url, "--mask", folder / "kettle.png", "--label", name)
    lines = run("concepts", "list", "-s", url).stdout.splitlines()
    shown = "".join(line.split("│")[1].strip().replace(" ", "") for line in lines if line.startswith("│"))
    assert all(name.replace(" ", "") in shown for name in names)


def test_one_default_for_things_and_what_is_mixed_is_said(folder, tmp_path, run):
    url = f"faiss://{tmp_path}/kinds"
    one = ["--mask", folder / "kettle.png", "--label", "pot", "-s", url]
    run("add", folder / "images" / "0.png", *one)
    listed = lambda: json.loads(run("concepts", "list", "-s", url, "--json").stdout)
    assert listed() == [{"label": "pot", "count": 1, "things": 0, "aliases": [], "keys": 1, "thing": False}]
    said = run("add", folder / "images" / "1.png", *one, "--thing").stderr
    assert "'pot': 1 of 2 examples say that it is a thing" in said and "concepts kind" in said
    assert "of 2, 1 say thing" in run("concepts", "list", "-s", url).stdout
    image = folder / "images" / "2.png"
    assert "'pot': 1 of 2" in run("segment", image, "-s", url, "-o", tmp_path / "out").stderr
    assert "'pot' is now a thing: 1 example" in run("concepts", "kind", "pot", "--thing", "-s", url).stdout
    assert run("add", image, *one).stderr == "" and listed()[0]["things"] == 3


def test_a_name_with_a_comma(folder, tmp_path, run):
    url, image = f"faiss://{tmp_path}/commas", folder / "images" / "0.png"
    run("add", image, "--mask", folder / "kettle.png", "--label", "pot, pan", "-s", url)
    (tmp_path / "names.txt").write_text("grass\n\nbowl, dish\n Käse \n", encoding="utf-8")

    def classes(*options):
        out = ["-o", tmp_path / "out", "--json"]
        return json.loads(run("segment", image, "-s", url, *options, *out).stdout)["classes"]

    assert classes("-c", "pot, pan", "-c", "grass, sand") == ["pot, pan", "grass", "sand"]
    assert classes("-c", '"bowl, dish", grass', "-c", "sand") == ["bowl, dish", "grass", "sand"]
    cut = run("segment", image, "-s", url, "-c", "pot, pan,grass", "-o", tmp_path / "out")  # not as a whole
    assert "no examples, so from the base alone: 'pot', 'pan', 'grass'" in cut.stderr
    assert classes("-c", f"@{tmp_path / 'names.txt'}", "-c", "pan") == ["grass", "bowl, dish", "Käse", "pan"]
    run("concepts", "rename", "pot, pan", "vessel", "-s", url)
    said = run("segment", image, "-s", url, "-c", "pot, pan", "-c", "grass,vessel", "-o", tmp_path / "out", "--json")
    assert (
        json.loads(said.stdout)["classes"] == ["vessel", "grass"] and "'pot, pan' is called 'vessel' now" in said.stderr
    )
    run("segment", image, "-c", f"@{tmp_path / 'none.txt'}", code=2)
    run("segment", image, "-c", "a\nb", code=2)


def test_a_name_with_a_comma_in_a_data_set(folder, tmp_path, run):
    entries = json.loads((folder / "classes.json").read_text())
    names = {"kettle": "kettle, pot", "lava": "lava, magma"}
    renamed = [entry | {"name": names.get(entry["name"], entry["name"])} for entry in entries]
    (tmp_path / "classes.json").write_text(json.dumps(renamed))
    pairs = ["--pairs", folder / "images", folder / "labels", "--class-file", tmp_path / "classes.json"]
    url = f"faiss://{tmp_path}/s"
    run("add", "-s", url, *pairs, "-c", "kettle, pot", "-c", '"lava, magma",grass')
    labels = {c["label"] for c in json.loads(run("concepts", "list", "-s", url, "--json").stdout)}
    assert {"kettle, pot", "lava, magma"} <= labels <= {"kettle, pot", "lava, magma", "grass"}
    result = json.loads(run("eval", *pairs, "-c", "lava, magma", "-c", "grass", "--limit", 1, "--json").stdout)
    assert list(result["labels"]) == ["lava, magma", "grass"]


def test_classes_that_nobody_knows_are_named_once(folder, store, tmp_path, run):
    config = tmp_path / "retrieval-only.toml"
    config.write_text('preset = "tiny"\n[base]\nname = "none"\n', encoding="utf-8")
    pairs = ["--pairs", folder / "images", folder / "labels", "--class-file", folder / "classes.json"]
    images = [folder / "images" / "0.png", folder / "images" / "1.png"]
    commands = [["segment", *images, "-o", tmp_path / "out"], ["eval", *pairs, "--limit", 2]]
    for command in commands:
        done = run(*command, "-s", store, "-p", config, "-c", "kettle,zebra,gnu")
        assert done.stderr.count("2 of 3 are known to nobody") == 1 and "'zebra', 'gnu'" in done.stderr
        assert "nobody" not in run(*command, "-s", store, "-c", "kettle,zebra").stderr  # its base may know any word


USER_ERRORS = [
    (["segment", "missing.png", "-c", "a"], "missing.png"),
    (["segment", "missing.png", "-c", "a,a"], "more than once"),
    (["segment", "missing.png", "-s", "fais:///x", "-c", "a"], "Did you mean 'faiss'"),
    (["segment", "missing.png", "-s", "faiss:///nowhere/at/all", "-c", "a"], "nowhere"),
    (["segment", "missing.png", "-s", "faiss:///nowhere/at/all?indx=Flat", "-c", "a"], "indx"),
    (["segment", "missing.png", "-s", "not a url", "-c", "a"], "store URL: expected"),
    (["segment", "missing.png", "-c", "a", "--preset", "huge"], "ends in .toml, got 'huge'"),
    (["segment", "missing.png", "-c", "a", "--preset", "wrong.toml"], "wrong.toml"),
    (["segment", "missing.png", "-c", "a", "--device", "quantum"], "quantum"),
    (["concepts", "list", "-s", "faiss:///nowhere/at/all"], "nowhere"),
    (["concepts", "list", "-s", "memory:///x", "-p", "tiny", "--checkpoint", "a.pth"], "such as the preset fcclip"),
    (["concepts", "list", "-s", "faiss:///proc/knnseg"], "/proc/knnseg"),
    (["demo", "-o", "/proc/knnseg"], "/proc/knnseg"),
    (["eval", "--pairs", "no", "where", "--class-file", "none.json"], "none.json"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), USER_ERRORS, ids=lambda v: " ".join(v)[:40] if isinstance(v, list) else None
)
def test_user_errors_are_one_message_and_exit_code_1(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["knnseg", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    printed = capsys.readouterr()
    assert stop.value.code == 1 and printed.out == ""
    assert message in printed.err and printed.err.startswith("knnseg: ") and "Traceback" not in printed.err
    monkeypatch.setattr(sys, "argv", ["knnseg", *arguments, "--json"])
    with pytest.raises(SystemExit) as stop:
        main()
    printed = capsys.readouterr()
    if arguments[0] != "demo":  # it has no --json
        document = json.loads(printed.out)
        assert stop.value.code == 1
        assert message in str(document["failed"] if "failed" in document else document["error"]["message"])


@pytest.mark.parametrize(
    "arguments",
    [["add", "-s", "memory:///x"], ["segment"], ["segment", "a.png"], ["add", "a.png", "-s", "memory:///x"], ["sgment"],
     ["add", "-s", "memory:///x", "--pairs", "a", "b"], ["segment", "a.png", "-c", "a", "--on-store-error", "hope"]],
)  # fmt: skip
def test_wrong_usage_is_exit_code_2(arguments, capsys, monkeypatch, run):
    run(*arguments, code=2)
    monkeypatch.setattr(sys, "argv", ["knnseg", *arguments, "--json"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2 and json.loads(capsys.readouterr().out)["error"]["message"]


def test_an_interruption_is_exit_code_130(capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("knnseg.cli.segmenting.open_segmenter", stop)
    monkeypatch.setattr(sys, "argv", ["knnseg", "segment", "a.png", "-c", "a", "--json"])
    with pytest.raises(SystemExit) as end:
        main()
    printed = capsys.readouterr()
    assert end.value.code == 130 and "interrupted" in printed.err
    assert json.loads(printed.out)["error"]["type"] == "KeyboardInterrupt"


@pytest.mark.parametrize("command", ["add", "segment", "eval", "demo", "concepts", "concepts list", "concepts remove"])
def test_help_says_what_it_does(command, run):
    output = run(*command.split(), "--help").stdout
    assert "Usage" in output and len(output) > 300


def test_demo_runs_twice_and_gains(tmp_path, run):
    run("demo", "--out", tmp_path / "d", "--scenes", 1, "--examples", 1)
    result = json.loads(run("demo", "--out", tmp_path / "d", "--scenes", 10, "--examples", 2, "--json").stdout)
    report = result["report"]
    assert report["final"]["miou_new concepts"] > report["base"]["miou_new concepts"] + 0.1
    assert (tmp_path / "d" / "before-and-after.png").exists()


def test_demo_on_labelled_photographs(tmp_path, run):
    """Pairs of surfaces of scikit-image; two of four are taught."""
    data = Path(skimage.__file__).parent / "data"
    names = ["brick", "grass", "gravel"]
    surfaces = [np.asarray(Image.open(data / f"{name}.png").convert("RGB"))[:, :, :3] for name in names]
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for i, pair in enumerate([(0, 1), (1, 2), (1, 2), (2, 0)]):
        left, right = (surfaces[k][i * 128 : i * 128 + 128, :128] for k in pair)
        labels = np.repeat(np.array(pair) + 1, 128)[None].repeat(128, 0)
        Image.fromarray(np.hstack([left, right])).save(tmp_path / "images" / f"{i}.png")
        Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "labels" / f"{i}.png")
    classes = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
    (tmp_path / "classes.json").write_text(json.dumps(classes))
    result = json.loads(run("demo", "--out", tmp_path / "d", "--photos", tmp_path, "--json").stdout)
    assert result["added"] == 4 and result["report"]["images"] == 2 and "--preset photo-words" in result["try_next"]
    assert 0 < result["report"]["base"]["miou"] < result["report"]["final"]["miou"] > 0.8
    with Image.open(result["picture"]) as sheet:
        assert sheet.width > 4 * 256
    nothing = run("demo", "--out", tmp_path / "d", "--photos", tmp_path / "nowhere", code=1)
    assert "nowhere/images" in str(nothing.exception) or "nowhere/classes.json" in str(nothing.exception)


def test_a_data_set_by_name_from_adding_to_the_report(tmp_path, run):
    """PASCAL VOC as published, with rendered scenes in it: a kettle goes by the number of a cow, lava by that of a chair."""
    root, scenes = tmp_path / "VOC2012", RenderedScenes(4, seed=5, size=(96, 96), including=["kettle", "lava"])
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for i, scene in enumerate(scenes):
        Image.fromarray(scene.image).save(root / "JPEGImages" / f"{i}.jpg", quality=95)
        numbers = np.where(scene.semantic(["kettle"]) == 0, 10, np.where(scene.semantic(["lava"]) == 0, 9, 255))
        Image.fromarray(numbers.astype(np.uint8)).convert("P").save(root / "SegmentationClass" / f"{i}.png")
    for split, listed in (("train", "0\n1\n"), ("val", "2\n3\n")):
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(listed)
    given = ["--dataset", "voc-20", "--root", root, "-s", f"faiss://{tmp_path}/voc"]
    assert json.loads(run("add", *given, "--split", "train", "--json").stdout)["added"] >= 2
    arguments = ["eval", *given, "-o", tmp_path / "report", "--pictures", 1, "--json"]
    result = json.loads(run(*arguments).stdout)
    assert (result["images"], result["classes"], result["settings"]["split"]) == (2, 20, "val")
    seen = {name for name, label in result["labels"].items() if label["pixels"]}
    assert seen == {"chair", "cow"} and result["base"] != result["final"]
    assert "voc-20" in (tmp_path / "report" / "report.html").read_text()
    assert json.loads(run(*arguments, "--split", "val").stdout) == result  # the same by its name: nothing is refused
    assert "settings of the run" in str(CliRunner().invoke(app, [*map(str, arguments), "--split", "train"]).exception)
