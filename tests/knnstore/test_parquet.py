"""Export and import: the same in every bit, readable by others, and a half or damaged export is never taken for a whole one."""

from __future__ import annotations

import builtins
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import knnstore
from knnstore import EmbeddingSpace, F, StoreSpec, content_checksum, export_parquet, import_parquet
from knnstore.errors import (
    BackendUnavailableError,
    ConflictError,
    ContentMismatchError,
    InvalidInputError,
    SpecMismatchError,
    StoreCorruptError,
    StoreNotFoundError,
    UnknownFieldError,
)
from knnstore.memory import MemoryStore
from knnstore.transfer.parquet import described_checksum

FIELDS: dict[str, Any] = {"label": str, "area": int, "score": float, "thing": bool}
SPEC = StoreSpec(6, "cosine", FIELDS, EmbeddingSpace("tiny", "sha256:abc", "a note — 猫"))
LABELS = ["kettle", "zebra", 'it\'s 100% "quoted" \\', "猫🫖\n", ""]


def fill(url: str, count: int = 300, spec: StoreSpec = SPEC, seed: int = 0) -> str:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, spec.dim)).astype(np.float32)
    vectors[: count // 8, 0] = -0.0
    vectors[: count // 4, 1] = np.float32(1e-45)
    columns: dict[str, Any] = {
        "label": [LABELS[i % len(LABELS)] for i in range(count)],
        "area": [[-(2**63), 2**63 - 1, i][min(i, 2)] for i in range(count)],
        "score": [[5e-324, 1.7976931348623157e308, i / 3][min(i, 2)] for i in range(count)],
        "thing": [i % 3 == 0 for i in range(count)],
    }
    with knnstore.open_store(url, spec) as store:
        store.upsert([f"img{i}#猫" for i in range(count)], vectors, {name: columns[name] for name in spec.fields})
    return url


def everything(url: str) -> dict[str, tuple[Any, ...]]:
    found: dict[str, tuple[Any, ...]] = {}
    with knnstore.open_store(url, read_only=True) as store:
        for records in store.scan(with_vectors=True):
            assert records.vectors is not None
            columns = [records.fields[name].tolist() for name in sorted(records.fields)]
            for row, value in enumerate(records.ids.tolist()):
                found[value] = (records.vectors[row].tobytes(), *(column[row] for column in columns))
    return found


@pytest.fixture(params=["memory", "faiss"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{request.param}://{tmp_path}/store"


@pytest.fixture
def again(url: str) -> str:
    return url.replace("/store", "/again")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "exported"


# -- there and back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_there_and_back_is_the_same_in_every_bit(url: str, again: str, folder: Path, metric: Any) -> None:
    spec = StoreSpec(6, metric, FIELDS, SPEC.space)
    fill(url, spec=spec)
    [written] = export_parquet(url, folder, batch_size=64)
    [read] = import_parquet(folder, again, batch_size=50)
    assert (written.records, read.records, read.sent, read.created) == (300, 300, 300, True)
    assert everything(again) == everything(url)
    with knnstore.open_store(again) as store:
        assert store.spec == spec and store.spec.space == spec.space
        assert content_checksum(store) == written.checksum == read.checksum
    [read] = import_parquet(folder, again)
    assert (read.sent, read.present) == (0, 300)


def test_the_negative_zero_of_a_field_goes_through_the_files(folder: Path) -> None:
    spec = StoreSpec(1, "dot", {"score": float})
    with knnstore.open_store("memory:///minus", spec) as store:
        store.upsert(["a"], np.full((1, 1), -0.0, np.float32), {"score": [-0.0]})
        export_parquet("memory:///minus", folder)
        store.delete(["a"])
    import_parquet(folder, "memory:///minus")
    with knnstore.open_store("memory:///minus") as store:
        back = store.get(["a"])
        assert back.vectors is not None
        assert np.signbit(back.fields["score"]).all() and np.signbit(back.vectors).all()


@pytest.mark.parametrize("fields", [{}, FIELDS])
def test_empty_and_without_fields(url: str, again: str, folder: Path, fields: dict[str, Any]) -> None:
    fill(url, 0 if fields else 3, StoreSpec(4, "l2", fields))
    [written] = export_parquet(url, folder)
    assert (written.records, written.files) == (0 if fields else 3, 1)
    assert len(pd.read_parquet(folder / "records")) == written.records
    import_parquet(folder, again)
    assert everything(again) == everything(url)
    with knnstore.open_store(again) as store:
        assert store.spec == StoreSpec(4, "l2", fields)


def test_where_exports_the_matching_part(url: str, again: str, folder: Path) -> None:
    fill(url)
    where = F("label") == "zebra"
    [written] = export_parquet(url, folder, where=where)
    import_parquet(folder, again)
    assert written.records == 60
    assert everything(again) == {k: v for k, v in everything(url).items() if v[2] == "zebra"}
    assert json.loads((folder / "metadata.json").read_text())["where"] == repr(where)
    with pytest.raises(UnknownFieldError):
        export_parquet(url, folder.with_name("other"), where=F("nothing") == 1)
    assert not folder.with_name("other").exists()


def test_collections_below_a_url(url: str, again: str, folder: Path) -> None:
    for seed, name in enumerate(["", "/clip-b16", "/dinov2"]):
        fill(url + name, 10 + seed, StoreSpec(6 + seed, "l2", FIELDS), seed)
    reports = export_parquet(url, folder)
    assert [report.folder for report in reports] == [str(folder), str(folder / "clip-b16"), str(folder / "dinov2")]
    assert json.loads((folder / "metadata.json").read_text())["collections"] == ["clip-b16", "dinov2"]
    imported = import_parquet(folder, again)
    assert [report.destination for report in imported] == [again, f"{again}/clip-b16", f"{again}/dinov2"]
    for name in ("", "/clip-b16", "/dinov2"):
        assert everything(again + name) == everything(url + name)
    [one] = import_parquet(folder / "dinov2", url.replace("/store", "/one"))  # a subfolder is an export by itself
    assert one.records == 12


def test_only_collections_below(url: str, again: str, folder: Path) -> None:
    fill(f"{url}/clip", 5)
    export_parquet(url, folder)
    assert not (folder / "records").exists()
    [report] = import_parquet(folder, again)
    assert report.destination == f"{again}/clip"


def test_a_collection_named_like_our_files(url: str, folder: Path) -> None:
    fill(f"{url}/records", 5)
    with pytest.raises(InvalidInputError, match="other names"):
        export_parquet(url, folder)
    assert not folder.exists()
    export_parquet(f"{url}/records", folder)


# -- for others to read ------------------------------------------------------------------------------------------------


def test_pandas_polars_and_pyarrow_read_it_as_it_is(tmp_path: Path, folder: Path) -> None:
    source = fill(f"memory://{tmp_path}/x")
    export_parquet(source, folder, batch_size=64, part_bytes=2500)
    expected = everything(source)
    assert len(list((folder / "records").iterdir())) > 2
    table = pq.read_table(folder / "records")
    assert table.schema.types == [
        pa.string(),
        pa.list_(pa.float32(), 6),
        pa.string(),
        pa.int64(),
        pa.float64(),
        pa.bool_(),
    ]
    assert table.schema.names == ["id", "vector", *FIELDS]
    frame = pd.read_parquet(folder / "records")
    lazy = pl.scan_parquet(folder / "records").filter(pl.col("label") == "zebra").collect()
    assert lazy.height == 60 and lazy.schema["vector"] == pl.Array(pl.Float32, 6)
    for name, rows in (
        ("pandas", frame.to_dict("records")),
        ("polars", pl.read_parquet(folder / "records").to_dicts()),
    ):
        assert len(rows) == 300, name
        for row in rows:
            held = (
                np.asarray(row["vector"], np.float32).tobytes(),
                row["area"],
                row["label"],
                row["score"],
                row["thing"],
            )
            assert held == expected[row["id"]], name


def test_the_description_says_what_it_is(tmp_path: Path, folder: Path) -> None:
    with_secret = fill(f"memory://me:hunter2@host{tmp_path}/x")
    [report] = export_parquet(with_secret, folder)
    text = (folder / "metadata.json").read_text(encoding="utf-8")
    assert "hunter2" not in text and "猫" in text
    raw = json.loads(text)
    assert raw.pop("metadata_checksum") == described_checksum(raw)
    assert raw == {
        "format": "knnstore-parquet", "version": 2, "dim": 6, "metric": "cosine", "dtype": "float32",
        "fields": {"label": "str", "area": "int", "score": "float", "thing": "bool"},
        "space": {"encoder": "tiny", "fingerprint": "sha256:abc", "note": "a note — 猫"},
        "count": 300, "checksum": report.checksum, "files": [{"name": "part-00000.parquet", "rows": 300}],
        "collections": [], "source": f"memory://me:***@host{tmp_path}/x", "where": None,
    }  # fmt: skip


def test_row_groups_and_files_are_bounded(tmp_path: Path, folder: Path) -> None:
    source = fill(f"memory://{tmp_path}/x", 1000)
    [report] = export_parquet(source, folder, batch_size=64, part_bytes=20_000)
    parts = [pq.ParquetFile(path) for path in sorted((folder / "records").iterdir())]
    assert len(parts) == report.files > 2
    for part in parts:
        groups = [part.metadata.row_group(i) for i in range(part.num_row_groups)]
        assert all(group.num_rows <= 64 for group in groups)
        assert part.metadata.row_group(0).column(1).compression == "ZSTD"
        part.close()
    assert report.bytes == sum(path.stat().st_size for path in (folder / "records").iterdir())


MEASURED = """
import sys, tracemalloc
import numpy as np, pyarrow as pa, knnstore
folder = sys.argv[1]
with knnstore.open_store(f"faiss://{folder}/from", knnstore.StoreSpec(512, "l2")) as store:
    for start in range(0, 12_000, 2000):
        vectors = np.random.default_rng(start).standard_normal((2000, 512)).astype(np.float32)
        store.upsert([str(i) for i in range(start, start + 2000)], vectors)
del vectors
with knnstore.open_store("memory:///warm", knnstore.StoreSpec(1, "l2")) as store:  # whatever is imported on first use
    store.upsert(["a"], np.ones((1, 1), np.float32))
knnstore.export_parquet("memory:///warm", f"{folder}/warm")
knnstore.import_parquet(f"{folder}/warm", "memory:///warmed")
tracemalloc.start()
knnstore.export_parquet(f"faiss://{folder}/from", f"{folder}/exported", batch_size=400)
knnstore.import_parquet(f"{folder}/exported", f"faiss://{folder}/to", batch_size=400)
print(tracemalloc.get_traced_memory()[1], pa.default_memory_pool().max_memory())
"""


def test_memory_is_bounded_by_a_batch(tmp_path: Path) -> None:
    """In a process of its own, as Arrow counts its memory from the start of the process."""
    done = subprocess.run([sys.executable, "-c", MEASURED, str(tmp_path)], capture_output=True, text=True, check=True)
    python, arrow = map(int, done.stdout.split())
    size = 12_000 * 512 * 4
    assert 400 * 512 * 4 < python < size / 4
    assert 0 < arrow < size / 4


# -- folders that are refused ------------------------------------------------------------------------------------------


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_with_something_else_is_not_touched(tmp_path: Path, folder: Path) -> None:
    source = fill(f"memory://{tmp_path}/x", 5)
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(InvalidInputError, match="something else"):
        export_parquet(source, folder)
    assert snapshot(folder) == {"thesis.txt": b"years of work"}
    (folder / "INCOMPLETE").write_text("")  # as if an export had begun there
    with pytest.raises(InvalidInputError, match=r"got thesis\.txt"):
        export_parquet(source, folder)
    assert (folder / "thesis.txt").read_text() == "years of work"


def test_a_whole_export_is_not_overwritten(tmp_path: Path, folder: Path) -> None:
    source = fill(f"memory://{tmp_path}/x", 5)
    export_parquet(source, folder)
    before = snapshot(folder)
    with pytest.raises(InvalidInputError, match="a whole export"):
        export_parquet(source, folder)
    assert snapshot(folder) == before


def test_a_link_in_the_leftovers_is_not_followed(tmp_path: Path, folder: Path) -> None:
    source = fill(f"memory://{tmp_path}/x", 5)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "part-00000.parquet").write_text("of another store")
    folder.mkdir()
    (folder / "INCOMPLETE").write_text("")
    (folder / "records").symlink_to(precious)
    with pytest.raises(InvalidInputError, match="got records"):
        export_parquet(source, folder)
    assert (precious / "part-00000.parquet").read_text() == "of another store"


def test_a_file_in_the_way(tmp_path: Path, folder: Path) -> None:
    folder.write_text("a file")
    with pytest.raises(OSError, match="exported"):
        export_parquet(fill(f"memory://{tmp_path}/x", 5), folder)
    assert folder.read_text() == "a file"


def test_nothing_to_export(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        export_parquet(f"memory://{tmp_path}/nothing", folder)
    assert not folder.exists()


def replaced(name: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        text = (folder / name).read_bytes()
        assert old in text
        (folder / name).write_bytes(text.replace(old, new, 1))

    return damage


def described(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "metadata.json"
        raw = {**json.loads(path.read_text()), **changes}
        del raw["metadata_checksum"]
        path.write_text(json.dumps({**raw, "metadata_checksum": described_checksum(raw)}))

    return damage


def as_version_1(folder: Path) -> None:
    """How exports were described before the description had a checksum of its own."""
    path = folder / "metadata.json"
    raw = {**json.loads(path.read_text()), "version": 1}
    del raw["metadata_checksum"]
    path.write_text(json.dumps(raw))


EDITS: dict[str, tuple[bytes, bytes]] = {
    "metric": (b'"metric": "cosine"', b'"metric": "l2"'),
    "fingerprint": (b"sha256:abc", b"sha256:abd"),
    "space": (b'"encoder": "tiny"', b'"encoder": "huge"'),
    "a field": (b'"area": "int"', b'"bbox": "int"'),
    "a type": (b'"score": "float"', b'"score": "int"'),
    "width": (b'"dim": 6', b'"dim": 3'),
    "where": (b'"where": null', b'"where": "all"'),
    "collections": (b'"collections": []', b'"collections": ["more"]'),
    "its checksum": (b'"metadata_checksum": "sha256:', b'"metadata_checksum": "sha256:0'),
    "no checksum of its own": (b'"metadata_checksum"', b'"note"'),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_description_is_refused(tmp_path: Path, folder: Path, name: str) -> None:
    """Whatever part of it: a metric or a space that is not that of the vectors would be silently wrong."""
    export_parquet(fill(f"memory://{tmp_path}/x"), folder)
    replaced("metadata.json", *EDITS[name])(folder)
    with pytest.raises(StoreCorruptError, match="changed after the export"):
        import_parquet(folder, f"memory://{tmp_path}/target")
    assert knnstore.collections(f"memory://{tmp_path}/target") == []


def test_an_export_of_the_first_version_is_read(tmp_path: Path, folder: Path) -> None:
    export_parquet(fill(f"memory://{tmp_path}/x"), folder)
    as_version_1(folder)
    [report] = import_parquet(folder, f"memory://{tmp_path}/target")
    assert report.records == 300


def rewritten(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    """A part written again by another program, whole and readable."""

    def damage(folder: Path) -> None:
        path = folder / "records" / "part-00000.parquet"
        table = pq.ParquetFile(path).read()
        pq.write_table(change(table), path)

    return damage


def flipped(folder: Path) -> None:
    """One bit in the middle of the vectors."""
    path = folder / "records" / "part-00000.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def other_number(table: pa.Table) -> pa.Table:
    areas = table.column("area").to_pylist()
    areas[7] += 1
    return table.set_column(3, table.schema.field("area"), pa.array(areas, pa.int64()))


def with_null(table: pa.Table) -> pa.Table:
    areas = table.column("area").to_pylist()
    areas[7] = None
    return table.set_column(3, pa.field("area", pa.int64()), pa.array(areas, pa.int64()))


def null_in_vector(table: pa.Table) -> pa.Table:
    vectors = table.column("vector").to_pylist()
    vectors[7][2] = None
    kind = table.schema.field("vector")
    return table.set_column(1, kind, pa.array(vectors, kind.type))


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a bit": (flipped, "cannot be read"),
    "a number": (rewritten(other_number), "is damaged: expected 300 records"),
    "a row lost": (rewritten(lambda t: t.slice(1)), "is damaged: expected 300 records"),
    "a row twice": (rewritten(lambda t: pa.concat_tables([t, t.slice(0, 1)])), "got 301"),
    "a null": (rewritten(with_null), "area int64, score"),
    "a null in a vector": (rewritten(null_in_vector), "is damaged: expected 300 records"),
    "a column lost": (rewritten(lambda t: t.drop_columns(["thing"])), "expected id string"),
    "another width": (described(dim=5), "fixed_size_list"),
    "part truncated": (lambda f: (f / "records/part-00000.parquet").write_bytes(b"PAR1"), "cannot be read"),
    "part missing": (lambda f: (f / "records/part-00000.parquet").unlink(), "cannot be read"),
    "count": (described(count=299), "is damaged: expected 299 records"),
    "checksum": (described(checksum="sha256-sum:00"), "is damaged"),
    "no checksum": (replaced("metadata.json", b'"checksum"', b'"sum"'), "changed after the export"),
    "metric": (described(metric="hamming"), "is damaged"),
    "no JSON": (lambda f: (f / "metadata.json").write_text('{"format": "knnst'), "is damaged"),
    "later version": (described(version=3), "Update knnstore"),
    "foreign": (lambda f: (f / "metadata.json").write_text('{"name": "a web page"}'), "something else"),
    "foreign list": (lambda f: (f / "metadata.json").write_text("[]"), "something else"),
    "leads out": (described(collections=["../../etc"]), "names of folders"),
    "leads out by a part": (described(files=[{"name": "../../part-00000.parquet"}]), "is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_export_is_refused_before_anything_is_written(tmp_path: Path, folder: Path, name: str) -> None:
    damage, said = DAMAGE[name]
    export_parquet(fill(f"memory://{tmp_path}/x"), folder)
    damage(folder)
    target = f"memory://{tmp_path}/target"
    with pytest.raises(StoreCorruptError) as caught:
        import_parquet(folder, target)
    assert said in str(caught.value) and str(folder) in str(caught.value)
    with pytest.raises(StoreNotFoundError):
        knnstore.open_store(target)


def test_a_lost_subfolder_is_missed(tmp_path: Path, folder: Path) -> None:
    for name in ("a", "b"):
        fill(f"memory://{tmp_path}/x/{name}", 5)
    export_parquet(f"memory://{tmp_path}/x", folder)
    shutil.rmtree(folder / "b")
    with pytest.raises(StoreNotFoundError, match="exported/b"):
        import_parquet(folder, f"memory://{tmp_path}/target")
    assert knnstore.collections(f"memory://{tmp_path}/target") == []


def test_no_export_at_all(tmp_path: Path) -> None:
    for nothing in (tmp_path, tmp_path / "missing"):
        with pytest.raises(StoreNotFoundError, match="no export in"):
            import_parquet(nothing, f"memory://{tmp_path}/target")


def test_a_destination_that_does_not_fit(url: str, again: str, folder: Path) -> None:
    fill(url)
    export_parquet(url, folder)
    [report] = import_parquet(folder, again, dry_run=True)
    assert (report.sent, report.created, report.dry_run) == (300, True, True)
    assert knnstore.collections(again) == []
    knnstore.open_store(again, StoreSpec(6, "dot", FIELDS)).close()
    with pytest.raises(SpecMismatchError):
        import_parquet(folder, again)
    with knnstore.open_store(url) as store:
        held = store.get(["img5#猫"])
        assert held.vectors is not None
        store.upsert(["img5#猫"], held.vectors, {**held.fields, "area": [77]})
    with pytest.raises(ConflictError, match="img5#猫"):
        import_parquet(folder, url)
    [report] = import_parquet(folder, url, on_conflict="replace")
    assert (report.sent, report.present) == (1, 299)


def test_a_source_that_changes_meanwhile(tmp_path: Path, folder: Path) -> None:
    """Changed by another writer in the middle of the export; what was written stays marked as incomplete."""
    source = fill(f"faiss://{tmp_path}/from")

    class Interfering(MemoryStore):
        def _scan(self, *arguments: Any) -> Any:
            for i, records in enumerate(super()._scan(*arguments)):
                if i == 1:
                    with knnstore.open_store(str(self.url)) as store:
                        store.delete(["img299#猫"])
                yield records

    from knnstore.memory import MemoryBackend

    backend = type("Backend", (MemoryBackend,), {"name": "interfering", "store_type": Interfering})()

    class Plugin:
        @knnstore.hookimpl
        def knnstore_register(self, register: Any) -> None:
            register(backend)

    knnstore.register(Plugin())
    knnstore.copy_store(source, "interfering:///from")
    with pytest.raises(ContentMismatchError, match="changed while it was exported"):
        export_parquet("interfering:///from", folder, batch_size=50)
    assert not (folder / "metadata.json").exists()
    with pytest.raises(StoreCorruptError, match="interrupted"):
        import_parquet(folder, f"memory://{tmp_path}/target")
    [report] = export_parquet("interfering:///from", folder)
    assert report.records == 299


# -- killed ------------------------------------------------------------------------------------------------------------


def killed(condition: Callable[[], bool], *arguments: str) -> None:
    """Run a command and kill it as soon as the condition holds."""
    command = [sys.executable, "-m", "knnstore.cli", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, f"ended by itself: {process.communicate()}"
        assert time.monotonic() < end
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.communicate()


def test_a_killed_export_is_recognised_and_starts_over(tmp_path: Path, folder: Path) -> None:
    source = fill(f"faiss://{tmp_path}/from", 20_000)
    part = folder / "records" / "part-00000.parquet"
    killed(lambda: part.exists() and part.stat().st_size > 50_000, "export", source, str(folder), "--batch", "50")
    assert not (folder / "metadata.json").exists()
    with pytest.raises(StoreCorruptError, match="holds an export that was interrupted"):
        import_parquet(folder, f"memory://{tmp_path}/target")
    [report] = export_parquet(source, folder)
    assert report.records == 20_000 and not (folder / "INCOMPLETE").exists()
    [read] = import_parquet(folder, f"memory://{tmp_path}/target")
    assert read.checksum == report.checksum


def test_a_killed_import_goes_on_where_it_was(tmp_path: Path, folder: Path) -> None:
    source, target = fill(f"faiss://{tmp_path}/from", 20_000), f"faiss://{tmp_path}/to"
    export_parquet(source, folder)

    def held() -> int:
        try:
            with knnstore.open_store(target, read_only=True) as store:
                return store.count()
        except StoreNotFoundError:
            return 0

    killed(lambda: held() >= 2000, "import", str(folder), target, "--batch", "20")
    there = held()
    assert 2000 <= there < 20_000
    [report] = import_parquet(folder, target)
    assert (report.present, report.sent, report.others) == (there, 20_000 - there, 0)
    assert everything(target) == everything(source)


def test_pyarrow_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def guarded(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "pyarrow":
            raise ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", guarded)
    for call in (
        lambda: export_parquet("memory:///x", tmp_path / "a"),
        lambda: import_parquet(tmp_path, "memory:///x"),
    ):
        with pytest.raises(BackendUnavailableError, match=r"pip install 'knnstore\[parquet\]'"):
            call()
    assert not (tmp_path / "a").exists()
