"""Checks of opening, reopening and closing: the spec lives with the data, and nothing is dropped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import pytest

from knnstore._plugins import collections, drop_store, open_store, ping, remove_empty
from knnstore.errors import (
    InvalidInputError,
    InvalidURLError,
    SpecMismatchError,
    StoreBusyError,
    StoreClosedError,
    StoreNotFoundError,
    UnsupportedOperationError,
)
from knnstore.filters import F
from knnstore.testing._base import KitBase, Opener, refused
from knnstore.testing._data import FIELDS, make_queries, make_sample, make_spec
from knnstore.testing._oracle import assert_content, assert_hits
from knnstore.testing._search import METRICS
from knnstore.types import Consistency, EmbeddingSpace, Metric, StoreSpec

__all__ = ["OpeningChecks"]

SPACE = EmbeddingSpace("encoder-one", "sha256:1111", "a note")
SPEC = StoreSpec(8, "cosine", FIELDS, SPACE)

OTHER_SPECS: dict[str, tuple[StoreSpec, str]] = {
    "dim": (replace(SPEC, dim=9), "9"),
    "metric": (replace(SPEC, metric="l2"), "l2"),
    "field-missing": (replace(SPEC, fields={"label": str, "area": int, "weight": float}), "thing"),
    "field-extra": (replace(SPEC, fields={**FIELDS, "more": str}), "more"),
    "field-type": (replace(SPEC, fields={**FIELDS, "area": float}), "float"),
    "space": (replace(SPEC, space=EmbeddingSpace("encoder-one", "sha256:2222")), "sha256:2222"),
    "dtype": (replace(SPEC, dtype="float16"), "float16"),
}


class OpeningChecks(KitBase):
    """Rule 6, and the life of a store."""

    rule = "6, the spec lives with the data; opening never drops or recreates anything"

    @pytest.mark.parametrize("metric", METRICS)
    def test_reopen(self, opener: Opener, metric: Metric) -> None:
        """Every part of the spec, and with it every record, is there again; without a spec too."""
        spec = replace(SPEC, metric=metric)
        sample = make_sample(30).write(opener(spec))
        for wanted in (None, spec, replace(spec, space=None)):
            store = opener.reopen(wanted)
            assert store.spec == spec
            assert_content(store, sample)
            queries = make_queries(3)
            recall = store.capabilities.recall_floor
            assert_hits(store.search(queries, 5), queries, sample, metric, 5, recall=recall)

    def test_reopen_after_each_write(self, opener: Opener) -> None:
        first, second = make_sample(6), make_sample(6, seed=3)
        first.write(opener(SPEC))
        opener.reopen().upsert(second.ids, second.vectors, second.fields)
        assert_content(opener.reopen(), second)
        opener.reopen().delete(["r0"])
        store = opener.reopen()
        assert_content(store, second.take(range(1, 6)))
        assert "r0" not in store.search(second.vectors[:1], 6).ids[0].tolist()

    @pytest.mark.parametrize("case", OTHER_SPECS)
    def test_another_spec_is_refused(self, opener: Opener, case: str) -> None:
        sample = make_sample(5).write(opener(SPEC))
        opener.close_all()
        other, named = OTHER_SPECS[case]
        for _ in range(2):
            doing = f"opening what is stored with another {case}, which the message must name"
            with refused(SpecMismatchError, doing, match=named) as caught:
                opener(other)
            assert "expected" in str(caught.value)
            assert "got" in str(caught.value)
        store = opener(SPEC)
        assert store.spec == SPEC
        assert_content(store, sample)

    def test_a_space_where_none_is_stored_is_refused(self, opener: Opener) -> None:
        opener(replace(SPEC, space=None)).close()
        with refused(SpecMismatchError, "opening with a space what was stored without one", match="sha256:1111"):
            opener(SPEC)

    def test_nothing_there(self, opener: Opener) -> None:
        for spec, read_only in ((None, False), (None, True), (SPEC, True)):
            asked = "without a spec" if spec is None else "with a spec"
            doing = f"opening a place where nothing is stored, {asked} and read_only={read_only}"
            with refused(StoreNotFoundError, doing):
                opener(spec, read_only=read_only)
        assert collections(opener.url) == [], "looking for a store has made one"

    def test_read_only(self, opener: Opener) -> None:
        sample = make_sample(5).write(opener(SPEC))
        store = opener.reopen(read_only=True)
        writes: list[Callable[[], object]] = [
            lambda: store.upsert(
                ["x"], sample.vectors[:1], {name: column[:1] for name, column in sample.fields.items()}
            ),
            lambda: store.delete(["r0"]),
            lambda: store.delete(where=F("area") > -10),
            lambda: store.update({"label": "x"}, ids=["r0"]),
            lambda: store.update({"label": "x"}, where=F("area") > -10),
        ]
        for write in writes:
            doing = (
                "writing to a store opened with read_only=True, as the backend must hand on to EmbeddingStore.__init__"
            )
            with refused(InvalidInputError, doing, match="read_only"):
                write()
        assert_content(store, sample)
        query, recall = sample.vectors[:1], store.capabilities.recall_floor
        assert_hits(store.search(query, 5), query, sample, "cosine", 5, recall=recall)

    def test_closed(self, opener: Opener) -> None:
        store = opener(make_spec())
        sample = make_sample(2).write(store)
        store.close()
        store.close()
        assert "closed" in repr(store)
        uses: list[Callable[[], object]] = [
            lambda: store.upsert(sample.ids, sample.vectors, sample.fields),
            lambda: store.delete(["r0"]),
            lambda: store.update({"label": "x"}, ids=["r0"]),
            lambda: store.search(sample.vectors, 1),
            lambda: store.get(["r0"]),
            store.count,
            store.revision,
            lambda: store.count_by("label"),
            lambda: list(store.scan()),
            store.flush,
            store.optimize,
            store.stats,
        ]
        for use in uses:
            with refused(StoreClosedError, "using a closed store"):
                use()

    def test_context_manager(self, opener: Opener) -> None:
        with opener(make_spec()) as store:
            make_sample(2).write(store)
        with pytest.raises(StoreClosedError):
            store.count()
        with pytest.raises(ZeroDivisionError), opener() as store:
            _ = 1 / store.count(F("label") == "absent")
        with pytest.raises(StoreClosedError):
            store.count()

    def test_children_are_collections_of_their_own(self, opener: Opener) -> None:
        one, two = opener(make_spec(), at="one"), opener(make_spec("l2", dim=3, fields={}), at="two")
        sample = make_sample(4).write(one)
        assert two.count() == 0
        assert_content(one, sample)
        listed = [str(url) for url in collections(opener.url)]
        wanted = [str(opener.url.child("one")), str(opener.url.child("two"))]
        assert listed == wanted, f"collections({opener.url}): got {listed}, expected what is right below, {wanted}"
        opener.close_all()
        assert_content(opener(at="one"), sample)
        assert opener(at="two").spec.metric == "l2"

    def test_collections_lists_the_url_itself(self, opener: Opener) -> None:
        assert collections(opener.url) == []
        opener(make_spec())
        assert [str(url) for url in collections(opener.url)] == [str(opener.url)]

    def test_only_what_is_empty_is_removed(self, opener: Opener) -> None:
        """A backend need not be able to remove a collection; records are never removed in this way."""
        sample = make_sample(2).write(opener(SPEC))
        opener.close_all()
        assert not remove_empty(opener.url), "says that it has removed a collection with records"
        store = opener()
        assert_content(store, sample)
        store.delete(sample.ids)
        opener.close_all()
        removed = remove_empty(opener.url)
        assert len(collections(opener.url)) == (0 if removed else 1)

    def test_dropped(self, opener: Opener) -> None:
        """With every record, what is below it not; and then something else may be made there. Not all can do it."""
        make_sample(3).write(opener(SPEC))
        sample = make_sample(2).write(opener(make_spec(), at="below"))
        opener.close_all()
        try:
            drop_store(opener.url)
        except UnsupportedOperationError:
            return
        with refused(StoreNotFoundError, "opening a collection that was dropped"):
            opener()
        with refused(StoreNotFoundError, "dropping a collection that is not there"):
            drop_store(opener.url)
        assert_content(opener(at="below"), sample)
        assert opener(make_spec("l2", dim=3, fields={})).count() == 0

    def test_the_revision_stays_until_somebody_writes(self, opener: Opener) -> None:
        """Who goes on with what was begun in another process finds the state of then, or sees that it has changed."""
        store, sample = opener(make_spec()), make_sample(4)
        if not (store.capabilities.persistent and store.capabilities.revision):
            return
        seen = [store.revision()]
        for part in (sample.take(range(2)), sample):
            part.write(store)
            seen.append(store.revision())
            for read_only in (True, False):
                store = opener.reopen(read_only=read_only)
                store.search(sample.vectors, 2)
                assert store.revision() == seen[-1], "opening the store changes its revision"
        assert len(set(seen)) == 3, f"revisions {seen}"

    def test_ping(self, opener: Opener) -> None:
        """It answers whether a collection is there or not, and makes none."""
        assert ping(opener.url) >= 0
        assert collections(opener.url) == [], "ping has made a collection"
        opener(SPEC)
        assert ping(opener.url) >= 0

    def test_a_collection_made_again(self, opener: Opener) -> None:
        """Removed and made for another encoder of the same width: an open store of the first writes nothing there."""
        first, second = (EmbeddingSpace(encoder, f"sha256:{encoder}") for encoder in ("first", "second"))
        store = opener(replace(SPEC, space=first))
        store.delete(make_sample(2).write(store).ids)
        try:
            if not remove_empty(opener.url):
                return  # it cannot be removed, or not while a store has it open
        except StoreBusyError:
            return
        other = opener(replace(SPEC, space=second))
        with pytest.raises((StoreNotFoundError, SpecMismatchError)):
            make_sample(3, prefix="of the first").write(store)
        assert_content(other, make_sample(4).write(other))

    def test_an_unknown_option_is_refused(self, opener: Opener) -> None:
        url = replace(opener.url, options={**opener.url.options, "no_such_option": "1"})
        with refused(InvalidURLError, "opening with ?no_such_option=1", match="no_such_option"):
            open_store(url, SPEC)
        assert collections(opener.url) == [], "a refused URL has made a collection"

    @pytest.mark.parametrize("level", get_args(Consistency))
    def test_consistency(self, opener: Opener, level: Consistency) -> None:
        """A level is given, or a stronger one, or the store says that it has none such; it is never ignored."""
        levels = ("eventual", "session", "strong")
        offered = opener(make_spec()).capabilities.consistency
        if max(map(levels.index, offered)) < levels.index(level):
            with refused(UnsupportedOperationError, f"opening with consistency={level!r}, not offered", match=level):
                opener.reopen(consistency=level)
            return
        store = opener.reopen(consistency=level)
        sample = make_sample(5).write(store)
        assert_content(store, sample)
        if level == "strong":
            assert_content(opener(consistency="strong", read_only=True), sample)

    def test_a_reader_sees_later_writes(self, opener: Opener) -> None:
        """A store that was opened to read sees, where that is declared, what another writes afterwards."""
        store = opener(make_spec())
        if "strong" not in store.capabilities.consistency:
            return
        reader = opener(consistency="strong", read_only=True)
        sample = make_sample(8)
        for count in (3, 8):
            part = sample.take(range(count)).write(opener(consistency="strong"))
            assert_content(reader, part)
            hits = reader.search(part.vectors, 3)
            recall = reader.capabilities.recall_floor
            assert_hits(hits, part.vectors, part, "cosine", 3, recall=recall)

    def test_consistency_is_checked(self, opener: Opener) -> None:
        with pytest.raises(InvalidInputError, match="consistency"):
            opener(make_spec(), consistency="whatever")
        assert collections(opener.url) == []

    def test_repr_shows_no_secret(self, opener: Opener) -> None:
        store = opener(make_spec())
        texts = (repr(store), str(store), repr(store.url), str(store.url), repr(store.stats()))
        for secret in store.url.secrets():
            assert not any(secret in text for text in texts), "a secret of the URL is shown"
        assert type(store).__name__ in repr(store)
