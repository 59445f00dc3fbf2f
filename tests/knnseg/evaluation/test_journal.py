"""Runs that stop: killed for real, torn lines, other settings, two at once."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from knnseg.cli.evaluating import run_eval
from knnseg.errors import ConfigError
from knnseg.evaluation import ImageCounts, Journal, evaluate, settings_of
from knnseg.evaluation.journal import differences
from knnstore.errors import StoreConnectionError
from knnstore.types import Capabilities


def worker(folder, journal):
    return [sys.executable, str(Path(__file__).with_name("worker.py")), f"faiss://{folder}/store", str(journal)]


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def killed(arguments, journal, images):
    """Start it, wait until it has written so many images, and kill it as the kernel would."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 200
    while lines(journal) <= images:
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode


def test_a_killed_run_goes_on_and_gives_the_same_numbers(tmp_path):
    once = subprocess.run(worker(tmp_path, tmp_path / "once"), capture_output=True, check=True)
    journal = tmp_path / "twice"
    for images in (3, 12):
        assert killed(worker(tmp_path, journal), journal, images) == -signal.SIGKILL
        before = journal.read_bytes()
        assert images < before.count(b"\n") < 41
    again = subprocess.run(worker(tmp_path, journal), capture_output=True, check=True)
    assert journal.read_bytes().startswith(before[: before.rindex(b"\n")])  # what was done was not done again
    assert journal.read_bytes() == (tmp_path / "once").read_bytes()
    result = json.loads(again.stdout)
    assert result == json.loads(once.stdout) and result["images"] == 40
    assert result["final"]["miou"] > result["base"]["miou"] and result["final"]["ap"] > 0


@pytest.fixture
def counted(segmenter, examples):
    """Settings, and an image's counts."""
    return settings_of(segmenter, examples, examples.vocabulary), evaluate(
        segmenter, examples, examples.vocabulary, limit=1
    ).counts[0]


def test_lines_come_back_bit_for_bit(counted, tmp_path):
    settings, counts = counted
    path = tmp_path / "deep" / "progress.jsonl"
    with Journal(path, settings) as journal:
        journal.append(counts)
        journal.append(ImageCounts("same", counts.base, counts.base, "away", 1))
    with Journal(path, settings) as journal:
        first, second = journal
    assert (first.image, second.degraded) == (counts.image, "away") and second.final is second.base
    for kind in ("base", "final"):
        ours, theirs = getattr(first, kind), getattr(counts, kind)
        for got, expected in (
            (ours.pixels, theirs.pixels), (ours.boundaries, theirs.boundaries), (ours.segments, theirs.segments),
            (ours.instances.found, theirs.instances.found), (ours.instances.objects, theirs.instances.objects),
        ):  # fmt: skip
            assert got.dtype == expected.dtype and np.array_equal(got, expected)


@pytest.mark.parametrize("torn", [b"", b'{"n": 1, "image', b'{"n":1'])
def test_a_torn_line_is_cut_off(counted, tmp_path, torn):
    settings, counts = counted
    path = tmp_path / "progress.jsonl"
    with Journal(path, settings) as journal:
        journal.append(counts)
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    with Journal(path, settings) as journal:
        assert len(journal) == 1
        assert path.read_bytes() == whole
        journal.append(replace(counts, place=1))
    with Journal(path, settings) as journal:
        assert len(journal) == 2


def test_a_kill_before_the_first_line_was_whole_is_a_new_run(counted, tmp_path):
    path = tmp_path / "progress.jsonl"
    path.write_bytes(b'{"format": 2, "sett')
    with Journal(path, counted[0]) as journal:
        assert len(journal) == 0
    assert json.loads(path.read_bytes())["format"] == 2


def test_images_that_are_done_are_not_read_again(segmenter, examples, tmp_path):
    settings = settings_of(segmenter, examples, examples.vocabulary)
    whole = evaluate(segmenter, examples, examples.vocabulary, limit=3).to_dict()
    with Journal(tmp_path / "j", settings) as journal:
        evaluate(segmenter, examples, examples.vocabulary, limit=2, journal=journal)
    read = []
    load = examples.load
    examples.load = lambda i: read.append(i) or load(i)
    with Journal(tmp_path / "j", settings) as journal:
        third = evaluate(segmenter, examples, examples.vocabulary, limit=3, journal=journal).to_dict()
        first = evaluate(segmenter, examples, examples.vocabulary, limit=1, journal=journal)
    assert third == whole and read == [2] and first.images == 1


def test_other_settings_are_refused_by_name(segmenter, examples, scenes_folder, tmp_path):
    vocabulary = examples.vocabulary
    with Journal(tmp_path / "j", settings_of(segmenter, examples, vocabulary, {"dataset": "a", "split": "val"})):
        pass
    other = settings_of(
        segmenter, examples[:4], vocabulary.subset(vocabulary.names[1:]), {"dataset": "b", "split": "val"}
    )
    other["configuration"]["retrieval"]["k"] += 1
    other["store"]["revision"] += "1"
    with pytest.raises(ConfigError) as refused, Journal(tmp_path / "j", other):
        pass
    text = str(refused.value)
    for part in (
        'dataset: was "a", is "b"', "images: was 6, is 4", "classes: 48 before, 47 now, without",
        "configuration.retrieval.k: was 16, is 17", "store.revision: was", "--restart",
    ):  # fmt: skip
        assert part in text
    assert "split" not in text
    with Journal(tmp_path / "j", other, restart=True) as journal:
        assert len(journal) == 0


def test_the_store_and_its_revision_are_settings(segmenter, examples, scene):
    before = settings_of(segmenter, examples, examples.vocabulary)
    assert before == settings_of(segmenter, examples, examples.vocabulary)
    assert before["store"]["fingerprint"] == segmenter.extractor.space.fingerprint and before["store"]["entries"] > 0
    segmenter.database.add(scene(1))
    changed = differences(before, settings_of(segmenter, examples, examples.vocabulary))
    assert [line.split(":")[0] for line in changed] == ["store.revision", "store.entries"]
    before = settings_of(segmenter, examples, examples.vocabulary)
    name = segmenter.database.concepts()[0].label
    segmenter.database.rename(name, f"{name} again")
    changed = differences(before, settings_of(segmenter, examples, examples.vocabulary))
    assert [line.split(":")[0] for line in changed] == ["store.revision"]


def test_a_replacement_is_seen_where_the_revision_may_stay(segmenter, examples, monkeypatch):
    """As on an engine that only counts: a run must not go on over other records of the same number and names."""
    store = segmenter.database.store
    monkeypatch.setattr(type(store), "capabilities", Capabilities(conditional=True, revision=False))
    monkeypatch.setattr(type(store), "_revision", lambda self: str(self._count(None)))
    before = settings_of(segmenter, examples, examples.vocabulary)
    assert differences(before, settings_of(segmenter, examples, examples.vocabulary)) == []
    record = next(store.scan(with_vectors=True, batch_size=1))
    record.fields["added"] += 1
    store.upsert(record.ids, -record.vectors, record.fields)
    changed = differences(before, settings_of(segmenter, examples, examples.vocabulary))
    assert [line.split(":")[0] for line in changed] == ["store.content"]


@pytest.mark.parametrize("kept", [True, False])
def test_who_is_interrupted_hears_what_is_measured(segmenter, examples, tmp_path, monkeypatch, kept):
    out, search, asked = tmp_path / "out" if kept else None, segmenter.database.store._search, []

    def down_after_two(*arguments):
        asked.append(1)
        if len(asked) > 2:
            raise StoreConnectionError("the server has restarted")
        return search(*arguments)

    monkeypatch.setattr(segmenter.database.store, "_search", down_after_two)
    with pytest.raises(StoreConnectionError) as caught:
        run_eval(segmenter, examples, examples.vocabulary, {}, out=out)
    done = f"Measured and kept in {out}: 2 images. Running it again goes on from there."
    assert caught.value.__notes__ == [
        done if kept else "Nothing of this run is kept; with --out FOLDER a run that was stopped goes on."
    ]


def test_files_of_the_configuration_are_settings(segmenter, examples, tmp_path):
    from dataclasses import replace

    weights = tmp_path / "weights"
    weights.write_bytes(b"1")
    stage = replace(
        segmenter.config.base, options={"checkpoint": str(weights), "templates": ["a {}" * 200, str(tmp_path)]}
    )
    segmenter.config = replace(segmenter.config, base=stage)
    before = settings_of(segmenter, examples, examples.vocabulary)
    weights.write_bytes(b"2")
    (changed,) = differences(before, settings_of(segmenter, examples, examples.vocabulary))
    assert changed.startswith(f'files.{weights}: was "sha256:')


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"[1]\n", "expected the progress"), (b"hello\n", "expected the progress"), (b'{"format": 1, "settings": {}}\n', "format 2, got 1"),
     (b'{"format": 2, "settings": {"a": 1}}\n{"n": 0}\n', "one line for each image"), (b'{"format": 2, "settings": {"a": 1}}\n7\n', "one line"),
     (b'{"format": 2, "settings": {"a": 1}}\n{"n": 1, "image": "", "degraded": "", "base": {"pixels": [], "boundaries": [], "segments": [], "found": [], "objects": []}}\n' + b'{"n": 1, "image": "", "degraded": "", "base": {"pixels": [], "boundaries": [], "segments": [], "found": [], "objects": []}}\n', "twice")],
)  # fmt: skip
def test_other_files_are_refused_and_left_alone(tmp_path, content, message):
    path = tmp_path / "j"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message), Journal(path, {"a": 1}):
        pass
    assert path.read_bytes() == content


def test_one_run_at_a_time(tmp_path):
    with Journal(tmp_path / "j", {}), pytest.raises(ConfigError, match="another run"), Journal(tmp_path / "j", {}):
        pass
    with Journal(tmp_path / "j", {}) as journal:  # and the lock is free again, after a refusal too
        assert len(journal) == 0
    with pytest.raises(ConfigError, match="a: was null, is 1"), Journal(tmp_path / "j", {"a": 1}):
        pass
    with Journal(tmp_path / "j", {}):
        pass


def test_differences_of_lists():
    assert differences([1, 2], [1, 3]) == [": 2 before, 2 now, without 2 and with 3"]
    assert differences({"a": [1, 2]}, {"a": [2, 1]}) == ["a: 2 and 2 of the same, in another order or number"]
    assert differences({"a": list("abcde")}, {"a": []}) == ['a: 5 before, 0 now, without "a", "b", "c" …']
    assert differences({"a": 1}, {"a": 1}) == []


def test_a_closed_journal_says_so(counted, tmp_path):
    journal = Journal(tmp_path / "progress.jsonl", {})
    for _ in range(2):
        with pytest.raises(ConfigError, match="inside `with Journal"):
            journal.append(counted[0])
        with journal:
            pass
