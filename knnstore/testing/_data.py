"""What the kit stores and asks for: specs, records, awkward texts. Every random number comes from a fixed seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnstore._validation import check_vectors
from knnstore.abc import EmbeddingStore
from knnstore.filters import FieldType
from knnstore.types import Dtype, Metric, StoreSpec

__all__ = ["FIELDS", "TEXTS", "Sample", "make_queries", "make_sample", "make_spec"]

FIELDS: Mapping[str, FieldType] = {"label": str, "area": int, "weight": float, "thing": bool}

LABELS = ("kettle", "zebra", "wall", "sky", "traffic light")

TEXTS: Mapping[str, tuple[str, ...]] = {
    "quotes": ("it's", 'say "hi"', "''", '"', "`tick`", "' OR '1'='1", '"; DROP TABLE records; --'),
    "backslashes": ("\\", "back\\slash", "\\'", '\\"', "\\n", "\\x00", "C:\\new\\table"),
    "wildcards": ("%", "100%", "_", "a%b_c", "*", "?", "a?c", "[a-z]", ".*", "^$"),
    "placeholders": (":name", "@name", "$1", "{label}", "{}", "%s", "%(label)s", "#", "&", "|", "~"),
    "whitespace": ("   ", " a", "a ", "a\nb", "a\tb", "a\r\nb", "\u00a0", "\u2028"),
    "controls": ("a\x01b", "\x7f", "\ufeffa", "\u202eabc", "a\u200bb"),
    "nul": ("\x00", "a\x00b", "a\x00", "a"),
    "unicode": ("\u00e9", "e\u0301", "Ⅷ", "straße", "strasse", "İstanbul", "ıstanbul", "中文", "日本語", "ﬁ", "fi"),
    "emoji": ("🦓", "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "👩‍👩‍👧", "\U0010ffff"),
    "case": ("Zebra", "ZEBRA", "zebra", "zEBRA"),
    "keywords": ("null", "None", "NULL", "true", "True", "false", "0", "1", "1.0", "nan", "[]", "{}", "['a']"),
}
"""Texts that an engine may mistake for something else, by kind. Each must be plain data, as an id and as a label."""


def make_spec(metric: Metric = "cosine", dim: int = 8, fields: Mapping[str, FieldType] = FIELDS) -> StoreSpec:
    """The spec that most checks use."""
    return StoreSpec(dim, metric, fields)


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Records as a caller would write them.

    Args:
        ids: N distinct strings.
        vectors: float32 (N, D), not normalised.
        fields: a list of N plain Python values for each field.
    """

    ids: list[str]
    vectors: NDArray[np.float32]
    fields: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int]) -> Sample:
        """Some of the records, in this order."""
        fields = {name: [column[i] for i in rows] for name, column in self.fields.items()}
        return Sample([self.ids[i] for i in rows], self.vectors[list(rows)], fields)

    def row(self, i: int) -> dict[str, Any]:
        """The fields of one record."""
        return {name: column[i] for name, column in self.fields.items()}

    def write(self, store: EmbeddingStore, batch: int = 0) -> Sample:
        """Upsert all of it, ``batch`` records at a time (all at once by default)."""
        step = batch or max(len(self), 1)
        for start in range(0, len(self), step):
            part = self.take(range(start, min(start + step, len(self))))
            written = store.upsert(part.ids, part.vectors.copy(), {k: list(v) for k, v in part.fields.items()})
            assert written == len(part), f"upsert of {len(part)} new records says that it wrote {written}"
        return self

    def stored(self, metric: Metric, dtype: Dtype = "float32") -> NDArray[np.float32]:
        """The rows as the contract says they are stored: as written or normalised once under cosine, then rounded."""
        return check_vectors(self.vectors, self.vectors.shape[1], metric, dtype=dtype)


def make_sample(n: int, *, dim: int = 8, seed: int = 0, prefix: str = "r") -> Sample:
    """N records whose lengths differ, so that the three metrics rank them differently."""
    rng = np.random.default_rng([seed, n, dim])
    vectors = rng.normal(size=(n, dim)) * rng.uniform(0.2, 3, size=(n, 1))
    fields: dict[str, list[Any]] = {
        "label": [LABELS[i] for i in rng.integers(len(LABELS), size=n)],
        "area": rng.integers(-5, 1000, size=n).tolist(),
        "weight": rng.normal(size=n).tolist(),  # in full: an engine that loses the last digit is found out
        "thing": (rng.random(n) < 0.5).tolist(),
    }
    return Sample([f"{prefix}{i}" for i in range(n)], vectors.astype(np.float32), fields)


def make_clusters(n: int, clusters: int, *, dim: int = 16, seed: int = 0) -> Sample:
    """N records around some centres, as embeddings of some classes are; the number of the centre is the area."""
    sample, centres = (
        make_sample(n, dim=dim, seed=seed),
        np.random.default_rng([2, clusters, dim]).normal(size=(clusters, dim)),
    )
    number = np.random.default_rng([seed, 3]).integers(clusters, size=n)
    noise = np.random.default_rng([seed, 4]).normal(size=(n, dim))
    vectors = (centres[number] + 0.3 * noise).astype(np.float32)
    return Sample(sample.ids, vectors, {**sample.fields, "area": number.tolist()})


def make_queries(n: int, *, dim: int = 8, seed: int = 1) -> NDArray[np.float32]:
    """float32 (Q, D)."""
    return np.random.default_rng([seed, n, dim]).normal(size=(n, dim)).astype(np.float32)
