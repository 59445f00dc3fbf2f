"""Copying between stores: complete, bit for bit, resumable after a kill, and never silent about what went wrong."""

from __future__ import annotations

import itertools
import json
import os
import pty
import random
import re
import select
import signal
import subprocess
import sys
import termios
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import knnstore
from knnstore import CopyReport, EmbeddingSpace, F, Records, StoreSpec, content_checksum, copy_store
from knnstore.errors import (
    ConflictError,
    ContentMismatchError,
    InvalidInputError,
    InvalidLimitError,
    SpecMismatchError,
    StoreConnectionError,
    StoreNotFoundError,
    UnknownFieldError,
)
from knnstore.memory import MemoryBackend, MemoryStore
from knnstore.transfer.checksum import Digester, Tally, rows_in
from knnstore.transfer.copying import CopyJob

FIELDS: dict[str, Any] = {"label": str, "area": int, "score": float, "thing": bool}
SPACE = EmbeddingSpace("tiny", "sha256:abc", "a note")
LABELS = ["kettle", "zebra", 'it\'s 100% "quoted" \\', "猫🫖\n", "", "' or 1==1 --"]
numbers = itertools.count()

Place = Callable[[str], str]
"""Makes a fresh URL of a backend."""
KINDS = ["memory", "faiss"]


def place(kind: str, tmp_path: Path) -> Place:
    return lambda name: f"{kind}://{tmp_path}/{next(numbers)}-{name}"


@pytest.fixture(params=KINDS)
def here(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return place(request.param, tmp_path)


@pytest.fixture(params=KINDS)
def there(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return place(request.param, tmp_path)


def content(count: int, dim: int, seed: int = 0) -> tuple[list[str], np.ndarray[Any, Any], dict[str, Any]]:
    """Records with every awkward value somewhere."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, dim)).astype(np.float32)
    vectors[: count // 8, 0] = -0.0
    vectors[: count // 4, 1] = np.float32(1e-45)  # the smallest subnormal
    area = rng.integers(-(2**63), 2**63 - 1, count)
    area[:2] = [-(2**63), 2**63 - 1][: len(area)]
    score = rng.standard_normal(count)
    score[:4] = [-0.0, 5e-324, 1.7976931348623157e308, -5e-324][: len(score)]
    ids = [f"img{i}#猫 {i % 7}" for i in range(count)]
    labels = [LABELS[i % len(LABELS)] for i in range(count)]
    return ids, vectors, {"label": labels, "area": area, "score": score, "thing": rng.random(count) < 0.5}


def fill(url: str, count: int = 500, *, dim: int = 6, metric: Any = "cosine", seed: int = 0, space: Any = SPACE) -> str:
    ids, vectors, fields = content(count, dim, seed)
    with knnstore.open_store(url, StoreSpec(dim, metric, FIELDS, space)) as store:
        for start in range(0, count, 5000):
            part = slice(start, start + 5000)
            store.upsert(ids[part], vectors[part], {name: column[part] for name, column in fields.items()})
    return url


def everything(url: str) -> dict[str, tuple[Any, ...]]:
    """id -> the bytes of the vector and the fields."""
    found: dict[str, tuple[Any, ...]] = {}
    with knnstore.open_store(url, read_only=True) as store:
        for records in store.scan(with_vectors=True):
            assert records.vectors is not None
            columns = [records.fields[name].tolist() for name in sorted(records.fields)]
            for row, value in enumerate(records.ids.tolist()):
                assert value not in found
                found[value] = (records.vectors[row].tobytes(), *(column[row] for column in columns))
    return found


def count(url: str) -> int:
    with knnstore.open_store(url, read_only=True) as store:
        return store.count()


def checksum(url: str, where: Any = None) -> str:
    with knnstore.open_store(url, read_only=True) as store:
        return content_checksum(store, where)


# -- the checksum ------------------------------------------------------------------------------------------------------


def one_batch(count: int = 40, dim: int = 6) -> Records:
    ids, vectors, fields = content(count, dim)
    columns = {"label": np.array(fields["label"], object), **{n: np.asarray(fields[n]) for n in FIELDS if n != "label"}}
    return Records(np.array(ids, object), vectors, columns)


def tally(*batches: Records, spec: StoreSpec | None = None) -> Tally:
    total, digester = Tally(), Digester(spec or StoreSpec(6, "dot", FIELDS))
    for batch in batches:
        total.add(digester(batch))
    return total


def rows_of(batch: Records, rows: Any) -> Records:
    assert batch.vectors is not None
    return Records(batch.ids[rows], batch.vectors[rows], {n: c[rows] for n, c in batch.fields.items()})


def test_the_checksum_knows_neither_order_nor_batches() -> None:
    batch = one_batch()
    order = list(range(40))
    random.Random(1).shuffle(order)
    shuffled = rows_of(batch, order)
    assert tally(batch) == tally(shuffled) == tally(*(rows_of(shuffled, [i]) for i in range(40)))
    assert tally() == Tally() and tally().checksum == "sha256-sum:" + 64 * "0"


def test_the_checksum_is_the_documented_one() -> None:
    """Computed again the long way, so that a change of the form cannot pass unnoticed."""
    import hashlib
    import json
    import struct

    batch, total = one_batch(), 0
    assert batch.vectors is not None
    kinds = {"area": "int", "label": "str", "score": "float", "thing": "bool"}
    header = hashlib.sha256(json.dumps({"dim": 6, "fields": kinds, "version": 1}).encode()).digest()
    for i, value in enumerate(batch.ids):
        label = batch.fields["label"][i].encode()
        lengths = struct.pack("<II", len(value.encode()), len(label))
        numbers = struct.pack(
            "<qdB", batch.fields["area"][i], batch.fields["score"][i] + 0.0, bool(batch.fields["thing"][i])
        )
        data = header + lengths + numbers + struct.pack("<6f", *batch.vectors[i]) + value.encode() + label
        total += int.from_bytes(hashlib.sha256(data).digest(), "little")
    assert tally(batch).checksum == f"sha256-sum:{total % 2**256:064x}"


def changed(batch: Records, change: Callable[[Records], None]) -> Records:
    copied = rows_of(batch, np.arange(len(batch)))
    change(copied)
    return copied


def swap(column: str) -> Callable[[Records], None]:
    def swapped(batch: Records) -> None:
        values = batch.fields[column]
        other = next(i for i in range(1, len(values)) if values[i] != values[0])
        values[0], values[other] = values[other], values[0]

    return swapped


def flip(row: int, column: int, bit: int) -> Callable[[Records], None]:
    def flipped(batch: Records) -> None:
        assert batch.vectors is not None
        batch.vectors.view(np.uint32)[row, column] ^= np.uint32(1 << bit)

    return flipped


def move_text(batch: Records) -> None:
    """The same letters in a row, divided otherwise between id and label."""
    batch.ids[0], batch.fields["label"][0] = batch.ids[0][:-1], batch.ids[0][-1] + batch.fields["label"][0]


@pytest.mark.parametrize(
    "change",
    [flip(0, 0, 31), flip(3, 5, 0), flip(39, 2, 12), *map(swap, FIELDS), move_text],
    ids=["sign-of-zero", "last-bit", "middle-bit", *(f"swapped-{name}" for name in FIELDS), "moved-text"],
)
def test_the_checksum_sees(change: Callable[[Records], None]) -> None:
    batch = one_batch()
    assert tally(changed(batch, change)).checksum != tally(batch).checksum


def test_the_checksum_sees_lost_and_doubled_records() -> None:
    batch = one_batch()
    twice = rows_of(batch, [0])
    sums = {
        tally(batch).checksum, tally(rows_of(batch, slice(1, None))).checksum, tally(batch, twice).checksum,
        tally(batch, twice, twice).checksum, tally(batch, rows_of(batch, [1])).checksum,
    }  # fmt: skip
    assert len(sums) == 5


def test_the_checksum_sees_which_field_is_which() -> None:
    spec = StoreSpec(2, "dot", {"a": int, "b": int})
    batch = Records(np.array(["x"], object), np.ones((1, 2), np.float32), {"a": np.array([1]), "b": np.array([2])})
    other = StoreSpec(2, "dot", {"b": int, "c": int})
    renamed = Records(batch.ids, batch.vectors, {"b": batch.fields["a"], "c": batch.fields["b"]})
    assert tally(batch, spec=spec) != tally(renamed, spec=other)


def test_the_two_zeros_of_a_field_are_one_value_and_those_of_a_vector_two() -> None:
    batch = one_batch()
    assert batch.fields["score"][0] == 0

    def positive(records: Records) -> None:
        records.fields["score"][0] = 0.0

    assert tally(changed(batch, positive)) == tally(batch)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=2), st.text(max_size=2)), unique=True, max_size=6))
def test_different_texts_never_look_alike(pairs: list[tuple[str, str]]) -> None:
    pairs = [pair for pair in pairs if all(text.isprintable() or text.isalnum() for text in pair)]
    spec = StoreSpec(1, "dot", {"a": str, "b": str})
    digests = set()
    for a, b in pairs:
        batch = Records(
            np.array(["i"], object), np.ones((1, 1), np.float32),
            {"a": np.array([a, None], object)[:1], "b": np.array([b, None], object)[:1]},
        )  # fmt: skip
        digests.add(Digester(spec)(batch).tobytes())
    assert len(digests) == len(pairs)


def test_the_checksum_of_a_store(here: Place) -> None:
    url, other = fill(here("a")), here("b")
    ids, vectors, fields = content(500, 6)
    order = np.random.default_rng(3).permutation(500)
    with knnstore.open_store(other, StoreSpec(6, "cosine", FIELDS, SPACE)) as store:
        store.upsert(
            [ids[i] for i in order], vectors[order], {n: np.asarray(c, object)[order] for n, c in fields.items()}
        )
        assert content_checksum(store, batch_size=7) == checksum(url)
        assert content_checksum(store, F("area") > 0) == checksum(url, F("area") > 0) != checksum(url)
        store.delete([ids[3]])
        assert content_checksum(store) != checksum(url)


def test_batches_are_bounded_by_bytes_too() -> None:
    assert rows_in(StoreSpec(4), 4096) == 4096
    assert rows_in(StoreSpec(32_768), 4096) == 128
    assert rows_in(StoreSpec(100_000_000), 4096) == 1


# -- copying -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_a_copy_is_the_same_in_every_bit(here: Place, there: Place, metric: str) -> None:
    source, target = fill(here("from"), metric=metric), there("to")
    [report] = copy_store(source, target, batch_size=64)
    assert report == CopyReport(
        source, target, 500, 500, 0, 0, 0, checksum(source), True, False, not target.startswith("memory")
    )
    assert everything(target) == everything(source)
    assert checksum(target) == report.checksum
    with knnstore.open_store(source) as a, knnstore.open_store(target) as b:
        assert a.spec == b.spec and b.spec.space == SPACE


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_a_copy_into_another_dtype(here: Place, there: Place, metric: str) -> None:
    """Said by the URL of the destination; it holds what it would hold had the records been written there."""
    ids, vectors, fields = content(120, 12)
    source, target = here("wide"), there("narrow")
    with knnstore.open_store(source, StoreSpec(12, metric, FIELDS, SPACE)) as store:  # type: ignore[arg-type]
        store.upsert(ids, vectors, fields)
    [report] = copy_store(source, f"{target}?dtype=float16")
    assert (report.sent, report.created) == (120, True)
    with knnstore.open_store(target) as half:
        assert half.spec == StoreSpec(12, metric, FIELDS, SPACE, "float16")  # type: ignore[arg-type]
        rounded = half.get(ids).vectors
        half.upsert(ids, vectors, fields)
        assert half.get(ids).vectors.tobytes() == rounded.tobytes()
    assert copy_store(source, f"{target}?dtype=float16")[0].sent == 0
    with pytest.raises(SpecMismatchError, match="float16"):
        copy_store(source, target)
    copy_store(target, (again := here("again")))
    with knnstore.open_store(again) as store:
        assert store.spec.dtype == "float16"
        assert content_checksum(store) == content_checksum(knnstore.open_store(target))
    [back] = copy_store(target, f"{there('back')}?dtype=float32")
    assert back.sent == 120


def test_copying_again_sends_nothing(here: Place, there: Place) -> None:
    source, target = fill(here("from")), there("to")
    copy_store(source, target)
    with knnstore.open_store(target) as store:
        before = store.revision()
        [report] = copy_store(source, target, batch_size=33)
        assert (report.sent, report.present, report.created) == (0, 500, False)
        assert store.revision() == before


def test_only_what_is_missing_is_sent(here: Place, there: Place) -> None:
    source, target = fill(here("from")), there("to")
    copy_store(source, target)
    ids = sorted(everything(source))[:17]
    with knnstore.open_store(target) as store:
        store.delete(ids)
    [report] = copy_store(source, target, batch_size=50)
    assert (report.sent, report.present) == (17, 483)
    assert everything(target) == everything(source)


def test_where_copies_the_matching_part(here: Place, there: Place) -> None:
    source, target = fill(here("from")), there("to")
    where = F("label").isin(["zebra", "猫🫖\n"]) & ~(F("thing") == True)  # noqa: E712
    [report] = copy_store(source, target, where=where)
    with knnstore.open_store(source) as store:
        wanted = {value for records in store.scan(where) for value in records.ids.tolist()}
    assert 0 < report.records == len(wanted) < 500
    assert everything(target) == {k: v for k, v in everything(source).items() if k in wanted}
    assert report.checksum == checksum(source, where) == checksum(target)
    [report] = copy_store(source, target)  # and then the rest
    assert (report.present, report.sent) == (len(wanted), 500 - len(wanted))


def test_a_field_of_where_that_does_not_exist(here: Place, there: Place) -> None:
    source, target = fill(here("from")), there("to")
    with pytest.raises(UnknownFieldError):
        copy_store(source, target, where=F("nothing") == 1)
    with pytest.raises(StoreNotFoundError):
        knnstore.open_store(target)


@pytest.mark.parametrize("fields", [{}, FIELDS])
def test_an_empty_store_and_one_without_fields(here: Place, there: Place, fields: dict[str, Any]) -> None:
    source, target = here("from"), there("to")
    with knnstore.open_store(source, StoreSpec(3, "l2", fields)) as store:
        [report] = copy_store(source, target)
        assert (report.records, report.created) == (0, True)
        if not fields:
            store.upsert(["a", "b"], np.eye(2, 3, dtype=np.float32))
            [report] = copy_store(source, target)
            assert (report.records, report.sent) == (2, 2)
    assert everything(target) == everything(source)
    with knnstore.open_store(target) as store:
        assert store.spec == StoreSpec(3, "l2", fields)


def test_texts_longer_than_a_batch(here: Place, there: Place) -> None:
    source, target = here("from"), there("to")
    with knnstore.open_store(source, StoreSpec(2, "dot", {"rle": str})) as store:
        for start in range(0, 600, 100):
            ids = [f"{i}" for i in range(start, start + 100)]
            store.upsert(ids, np.ones((100, 2), np.float32), {"rle": [i + "x" * 65_000 for i in ids]})
    [report] = copy_store(source, target)
    assert report.sent == 600
    assert everything(target) == everything(source)


# -- a destination that is there already -------------------------------------------------------------------------------


def test_other_records_of_the_destination_stay(here: Place, there: Place) -> None:
    source, target = fill(here("from")), there("to")
    with knnstore.open_store(target, StoreSpec(6, "cosine", FIELDS, SPACE)) as store:
        store.upsert(
            ["mine"], np.ones((1, 6), np.float32), {"label": ["x"], "area": [1], "score": [0.5], "thing": [True]}
        )
    [report] = copy_store(source, target)
    assert (report.sent, report.others, report.created) == (500, 1, False)
    held = everything(target)
    assert held.pop("mine")[2] == "x"
    assert held == everything(source)


def other_content(source: str, target: str, count: int = 3) -> list[str]:
    """A whole copy in which some records have been changed."""
    copy_store(source, target)
    ids = sorted(everything(source))[:count]
    with knnstore.open_store(target) as store:
        held = store.get(ids)
        assert held.vectors is not None
        store.upsert(ids, held.vectors, {**held.fields, "label": ["changed"] * count})
    return ids


def test_other_content_under_the_same_id_stops_the_copy(here: Place, there: Place) -> None:
    source, target = fill(here("from")), there("to")
    ids = other_content(source, target)
    before = everything(target)
    with pytest.raises(ConflictError) as caught:
        copy_store(source, target)
    assert any(repr(value) in str(caught.value) for value in ids) and "skip keeps" in str(caught.value)
    assert everything(target) == before


def test_replace_takes_those_of_the_source(here: Place, there: Place) -> None:
    source, target = fill(here("from")), there("to")
    other_content(source, target)
    [report] = copy_store(source, target, on_conflict="replace")
    assert (report.sent, report.present, report.conflicts) == (3, 497, 3)
    assert everything(target) == everything(source)


def test_skip_leaves_those_of_the_destination(here: Place, there: Place) -> None:
    source, target = fill(here("from")), there("to")
    ids = other_content(source, target)
    with knnstore.open_store(target) as store:
        store.delete([sorted(everything(source))[10]])
    [report] = copy_store(source, target, on_conflict="skip")
    assert (report.sent, report.present, report.conflicts, report.others) == (1, 496, 3, 0)
    held, wanted = everything(target), everything(source)
    assert {value for value in held if held[value] != wanted[value]} == set(ids)


SPECS = {
    "dim": StoreSpec(7, "cosine", FIELDS, SPACE),
    "metric": StoreSpec(6, "dot", FIELDS, SPACE),
    "fields": StoreSpec(6, "cosine", {**FIELDS, "area": float}, SPACE),
    "space": StoreSpec(6, "cosine", FIELDS, EmbeddingSpace("tiny", "sha256:other")),
    "no-space": StoreSpec(6, "cosine", FIELDS),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("dry_run", [False, True])
def test_another_spec_is_refused_and_nothing_changed(here: Place, there: Place, spec: StoreSpec, dry_run: bool) -> None:
    source, target = fill(here("from")), there("to")
    with knnstore.open_store(target, spec) as store:
        before = store.revision()
        with pytest.raises(SpecMismatchError):
            copy_store(source, target, dry_run=dry_run)
        assert (store.revision(), store.count(), store.spec) == (before, 0, spec)


def test_vectors_of_unknown_origin_do_not_enter_a_space(here: Place, there: Place) -> None:
    source, target = fill(here("from"), space=None), there("to")
    knnstore.open_store(target, StoreSpec(6, "cosine", FIELDS, SPACE)).close()
    with pytest.raises(SpecMismatchError, match="unknown origin"):
        copy_store(source, target)
    assert count(target) == 0


def test_dry_run_says_what_would_be_done_and_does_nothing(here: Place, there: Place) -> None:
    source, target = fill(here("from")), there("to")
    [report] = copy_store(source, target, dry_run=True)
    assert report == CopyReport(source, target, 500, 500, 0, 0, 0, checksum(source), True, True)
    with pytest.raises(StoreNotFoundError):
        knnstore.open_store(target)
    other_content(source, target)
    with knnstore.open_store(target) as store:
        store.delete([sorted(everything(source))[20]])
        before = store.revision()
        for on_conflict, sent in (("error", 1), ("skip", 1), ("replace", 4)):
            [report] = copy_store(source, target, dry_run=True, on_conflict=on_conflict)  # type: ignore[arg-type]
            assert (report.sent, report.present, report.conflicts, report.created) == (sent, 496, 3, False)
        assert store.revision() == before


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"batch_size": 0}, InvalidLimitError),
        ({"on_conflict": "hope"}, InvalidInputError),
        ({"where": "area > 1"}, Exception),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: dict[str, Any], error: type[Exception]) -> None:
    source = fill(f"memory://{tmp_path}/a", 3)
    with pytest.raises(error):
        copy_store(source, f"memory://{tmp_path}/b", **options)
    with pytest.raises(StoreNotFoundError):
        knnstore.open_store(f"memory://{tmp_path}/b")


def test_onto_itself_and_from_nowhere(here: Place) -> None:
    source = fill(here("a"), 3)
    with pytest.raises(InvalidInputError, match="another place"):
        copy_store(source, source + "/")
    with pytest.raises(StoreNotFoundError, match="nothing is stored"):
        copy_store(here("nothing"), here("b"))


# -- several collections -----------------------------------------------------------------------------------------------


def test_collections_below_a_url_go_along_under_their_names(here: Place, there: Place) -> None:
    source, target = here("from"), there("to")
    for seed, name in enumerate(["", "/clip-b16", "/dinov2"]):
        fill(source + name, 40 + seed, dim=6 + seed, seed=seed, space=EmbeddingSpace(f"e{seed}", f"sha256:{seed}"))
    reports = copy_store(source, target)
    assert [report.destination for report in reports] == [target, f"{target}/clip-b16", f"{target}/dinov2"]
    assert [report.sent for report in reports] == [40, 41, 42]
    for name in ("", "/clip-b16", "/dinov2"):
        assert everything(target + name) == everything(source + name)


def test_only_collections_below(here: Place, there: Place) -> None:
    source, target = here("from"), there("to")
    fill(f"{source}/clip", 10)
    [report] = copy_store(source, target)
    assert report.destination == f"{target}/clip"
    with pytest.raises(StoreNotFoundError):
        knnstore.open_store(target)
    [report] = copy_store(f"{source}/clip", f"{target}/other")  # one of them alone
    assert everything(f"{target}/other") == everything(f"{source}/clip")


def test_one_that_does_not_fit_stops_all_before_anything_is_written(here: Place, there: Place) -> None:
    source, target = here("from"), there("to")
    for name in ("a", "b"):
        fill(f"{source}/{name}", 10)
    knnstore.open_store(f"{target}/b", SPECS["space"]).close()
    with pytest.raises(SpecMismatchError):
        copy_store(source, target)
    with pytest.raises(StoreNotFoundError):
        knnstore.open_store(f"{target}/a")


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def registered(name: str, store: type[MemoryStore]) -> None:
    backend = type("Backend", (MemoryBackend,), {"name": name, "store_type": store})()

    class Plugin:
        @knnstore.hookimpl
        def knnstore_register(self, register: Any) -> None:
            register(backend)

    knnstore.register(Plugin())


class Losing(MemoryStore):
    """Acknowledges every record and keeps all but the last of a batch."""

    def _upsert(self, batch: Any, on_conflict: Any) -> int:
        kept = list(range(len(batch) - 1))
        columns = {name: column[kept] for name, column in batch.fields.items()}
        super()._upsert(type(batch)(batch.ids[:-1], batch.vectors[kept], columns), on_conflict)
        return len(batch)


class Flipping(MemoryStore):
    """Changes the last bit of one number."""

    def _upsert(self, batch: Any, on_conflict: Any) -> int:
        batch.vectors.view(np.uint32)[-1, -1] ^= np.uint32(1)
        return super()._upsert(batch, on_conflict)


class Swapping(MemoryStore):
    """Gives two records each other's label."""

    def _upsert(self, batch: Any, on_conflict: Any) -> int:
        labels = batch.fields["label"]
        labels[0], labels[1] = labels[1], labels[0]
        return super()._upsert(batch, on_conflict)


class Miscounting(MemoryStore):
    """Says that it holds less than it does."""

    def _count(self, where: Any) -> int:
        return super()._count(where) // 2


@pytest.mark.parametrize("wrong", [Losing, Flipping, Swapping, Miscounting])
def test_a_destination_that_does_not_keep_what_it_is_given(tmp_path: Path, wrong: type[MemoryStore]) -> None:
    name = wrong.__name__.lower()
    registered(name, wrong)
    source = fill(f"memory://{tmp_path}/from")
    with pytest.raises(ContentMismatchError, match=f"{name}://.* does not hold what was copied from memory://"):
        copy_store(source, f"{name}://{tmp_path}/to", batch_size=100)


class Ending(MemoryStore):
    """Its scan ends after 300 records, every time, like a query with a limit."""

    def _scan(self, where: Any, fields: Any, with_vectors: bool, batch_size: int) -> Iterator[Records]:
        yield from itertools.islice(super()._scan(where, fields, with_vectors, 50), 6)


def test_a_source_that_is_not_read_to_its_end(tmp_path: Path) -> None:
    registered("ending", Ending)
    source = fill("ending:///from")
    for _ in range(2):
        with pytest.raises(ContentMismatchError, match=r"not read to its end.* expected 500 records.* got 300"):
            copy_store(source, f"memory://{tmp_path}/to")
    with pytest.raises(ContentMismatchError, match="not read to its end"):
        knnstore.export_parquet(source, tmp_path / "exported")
    assert not (tmp_path / "exported" / "metadata.json").exists()


@pytest.mark.parametrize("change", ["add", "delete", "replace"])
def test_a_source_that_changes_meanwhile_is_said_to(tmp_path: Path, change: str) -> None:
    """Really changed, by another writer, in the middle of the first pass."""
    source = fill(f"faiss://{tmp_path}/from")
    ids, vectors, fields = content(500, 6)

    class Changing(MemoryStore):
        written = 0

        def _upsert(self, batch: Any, on_conflict: Any) -> int:
            Changing.written += 1
            if Changing.written == 3:
                with knnstore.open_store(source) as store:
                    if change == "delete":
                        store.delete([ids[0]])
                    else:
                        new = [ids[0] if change == "replace" else "new"]
                        store.upsert(new, -vectors[:1], {n: c[:1] for n, c in fields.items()})
            return super()._upsert(batch, on_conflict)

    registered("changing", Changing)
    with pytest.raises(ContentMismatchError, match=r"faiss://.*from changed while it was copied"):
        copy_store(source, f"changing://{tmp_path}/to", batch_size=100)
    reports = copy_store(source, f"changing://{tmp_path}/to", on_conflict="replace")  # in peace it goes through
    assert reports[0].others == (1 if change == "delete" else 0)


def test_a_copy_may_be_interrupted_anywhere_and_goes_on(tmp_path: Path) -> None:
    source, target = fill(f"memory://{tmp_path}/from", 100), f"failing://{tmp_path}/to"

    class Failing(MemoryStore):
        left = 0

        def _upsert(self, batch: Any, on_conflict: Any) -> int:
            Failing.left -= 1
            if Failing.left < 0:
                raise OSError("the line went dead")
            return super()._upsert(batch, on_conflict)

    registered("failing", Failing)
    sent = 0
    for steps in (0, 1, 3, 2):
        Failing.left = steps
        with pytest.raises(knnstore.KnnStoreError, match="the line went dead"):
            copy_store(source, target, batch_size=10)
        sent += steps
        assert count(target) == 10 * sent
    Failing.left = 100
    [report] = copy_store(source, target, batch_size=10)
    assert (report.sent, report.present) == (40, 60)
    assert everything(target) == everything(source)


# -- killed ------------------------------------------------------------------------------------------------------------


def waited(condition: Callable[[], bool], process: subprocess.Popen[Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"ended by itself: {process.communicate()}"
        assert time.monotonic() < end
        time.sleep(0.005)


def held(url: str) -> int:
    try:
        return count(url)
    except StoreNotFoundError:
        return 0


def started(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "knnstore.cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_copy_goes_on_where_it_was(tmp_path: Path) -> None:
    source, target = fill(f"faiss://{tmp_path}/from", 20_000, dim=16), f"faiss://{tmp_path}/to"
    for least in (1000, 4000):  # killed twice
        process = started("copy", source, target, "--batch", "20")
        waited(lambda least=least: held(target) >= least, process)  # type: ignore[misc]
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.communicate()
    there = held(target)
    assert 4000 <= there < 20_000
    [report] = copy_store(source, target)
    assert (report.present, report.sent, report.others) == (there, 20_000 - there, 0)
    assert everything(target) == everything(source)


def interrupted(process: subprocess.Popen[str]) -> tuple[str, str]:
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    return out, err


def test_an_interrupted_copy_says_what_was_done_and_how_to_go_on(tmp_path: Path) -> None:
    source, target = fill(f"faiss://{tmp_path}/from", 20_000, dim=16), f"faiss://{tmp_path}/to"
    process = started("copy", source, target, "--batch", "20", "--json")
    waited(lambda: held(target) >= 1000, process)
    out, err = interrupted(process)
    found = re.search(rf"{source} -> {target}: interrupted while copying, after (\d+) records, (\d+) of them sent", err)
    assert found and int(found[2]) <= held(target) <= int(found[2]) + 20  # the last batch may have been on its way
    assert "Run it again to go on" in err
    assert json.loads(out)["error"]["type"] == "KeyboardInterrupt"
    [report] = copy_store(source, target)
    assert report.present >= int(found[2]) and everything(target) == everything(source)


def test_a_copy_to_a_server_that_restarts_says_the_same(tmp_path: Path) -> None:
    source, target = fill(f"memory://{tmp_path}/from", 100), f"restarting://{tmp_path}/to"

    class Restarting(MemoryStore):
        left = 3

        def _upsert(self, batch: Any, on_conflict: Any) -> int:
            Restarting.left -= 1
            if Restarting.left < 0:
                raise StoreConnectionError("the server has restarted")
            return super()._upsert(batch, on_conflict)

    registered("restarting", Restarting)
    with pytest.raises(StoreConnectionError, match="restarted") as caught:
        copy_store(source, target, batch_size=10)
    [note] = caught.value.__notes__
    assert re.search(r"interrupted while copying, after \d+ records, 30 of them sent", note)
    assert "Run it again to go on" in note


def test_an_interrupted_export_and_import(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    source, target = fill(f"faiss://{tmp_path}/from", 20_000, dim=16), f"faiss://{tmp_path}/to"
    process = started("export", source, str(tmp_path / "out"), "--batch", "20")
    waited((tmp_path / "out" / "records" / "part-00000.parquet").exists, process)
    assert "no whole export. Run it again: it starts over" in interrupted(process)[1]
    knnstore.export_parquet(source, tmp_path / "out")
    process = started("import", str(tmp_path / "out"), target, "--batch", "20")
    waited(lambda: held(target) >= 1000, process)
    assert "interrupted while copying, after" in interrupted(process)[1]
    knnstore.import_parquet(tmp_path / "out", target)
    assert everything(target) == everything(source)


def test_an_interruption_among_several_collections(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        fill(f"memory:///many/{name}", 50)
    sent = CopyJob._send

    def send(self: CopyJob, records: Records, state: Any) -> None:
        if self.name.endswith("/b") and len(records) < 20:
            raise KeyboardInterrupt
        sent(self, records, state)

    monkeypatch.setattr(CopyJob, "_send", send)
    with pytest.raises(KeyboardInterrupt) as stop:
        copy_store("memory:///many", "memory:///copies", batch_size=20)
    assert "after 40 records, 40 of them sent and 0 there already. 1 of 3 collections were done." in str(stop.value)


# -- memory and progress -----------------------------------------------------------------------------------------------


def test_memory_is_bounded_by_a_batch(tmp_path: Path) -> None:
    source, target = fill(f"faiss://{tmp_path}/from", 16_000, dim=512), f"faiss://{tmp_path}/to"
    size = 16_000 * 512 * 4
    tracemalloc.start()
    try:
        copy_store(source, target, batch_size=400)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 400 * 512 * 4 < peak < size / 4


def through_a_terminal(code: str) -> str:
    """What a process writes to standard error when that is a terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    text = b"".join(_chunks(ours))
    os.close(ours)
    assert process.wait() == 0, text.decode()
    return text.decode()


def _chunks(terminal: int) -> Iterator[bytes]:
    while select.select([terminal], [], [], 60)[0]:
        try:
            yield os.read(terminal, 4096)
        except OSError:  # the other side has closed
            return


SLOW = """
import sys, time, knnstore
from knnstore.cli import main
from knnstore.memory import MemoryStore
import numpy as np
with knnstore.open_store("memory:///from", knnstore.StoreSpec(2)) as store:
    store.upsert([str(i) for i in range(60)], np.ones((60, 2), np.float32))
plain = MemoryStore._upsert
def slow(self, batch, on_conflict):
    time.sleep({pause})
    return plain(self, batch, on_conflict)
MemoryStore._upsert = slow
sys.argv = ["knnstore", "copy", "memory:///from", "memory:///to", "--batch", "1"]
try:
    main()
except SystemExit as end:
    sys.exit(end.code)
"""


def test_a_bar_appears_on_a_terminal_after_two_seconds() -> None:
    shown = through_a_terminal(SLOW.format(pause=0.06))
    assert "copying" in shown and "/60.0" in shown
    assert through_a_terminal(SLOW.format(pause=0)) == ""


def test_no_bar_where_there_is_no_terminal() -> None:
    done = subprocess.run([sys.executable, "-c", SLOW.format(pause=0.06)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "60 sent" in done.stdout


def test_a_filter_leaves_a_collection_whole_that_it_does_not_speak_of(tmp_path: Path) -> None:
    """The names of concepts beside their examples; but a filter that speaks of no collection is a mistake."""
    place = f"faiss://{tmp_path}/db"
    for name, field in (("space", "label"), ("changes", "change")):
        with knnstore.open_store(f"{place}/{name}", knnstore.StoreSpec(dim=2, fields={field: str})) as store:
            store.upsert(["a", "b"], np.eye(2, dtype=np.float32), {field: ["kettle", "ball"]})
    reports = copy_store(place, f"faiss://{tmp_path}/copy", where=F("label") == "kettle")
    assert sorted(report.records for report in reports) == [1, 2]
    with pytest.raises(UnknownFieldError, match="lable"):
        copy_store(place, f"faiss://{tmp_path}/other", where=F("lable") == "kettle")
