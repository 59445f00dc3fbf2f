"""The classes of the benchmarks, read from the tables beside this module. Each table says where its facts come from."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from knnseg.data.vocabulary import Vocabulary

__all__ = ["ClassTable", "benchmark_classes", "class_table", "distinct_names"]


@dataclass(frozen=True, slots=True)
class ClassTable:
    """The classes of a data set and their numbers in its annotations, class by class.

    Args:
        vocabulary: names, things and words.
        numbers: of each class in the annotations.
        others: of each class in a second kind of annotation, 0 where it has no class there.
    """

    vocabulary: Vocabulary
    numbers: tuple[int, ...]
    others: tuple[int, ...]

    def picked(self, positions: Sequence[int]) -> ClassTable:
        """Only these classes, in this order."""
        names = self.vocabulary.names
        return ClassTable(
            self.vocabulary.subset(names[i] for i in positions),
            tuple(self.numbers[i] for i in positions),
            tuple(self.others[i] for i in positions),
        )


@cache
def class_table(name: str) -> ClassTable:
    """The table ``name``, from ``tables/NAME.tsv``."""
    text = files(__package__).joinpath("tables", f"{name}.tsv").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    words = [(row["name"], *_parts(row["synonyms"])) for row in rows]
    names = distinct_names(words)
    vocabulary = Vocabulary(
        names,
        frozenset(name for name, row in zip(names, rows, strict=True) if row["thing"] == "1"),
        {
            name: wording
            for name, own, row in zip(names, words, rows, strict=True)
            if (wording := _parts(row["words"]) or own) != (name,)
        },
    )
    numbers, others = (tuple(int(row[column] or 0) for row in rows) for column in ("number", "other"))
    return ClassTable(vocabulary, numbers, others)


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def distinct_names(words: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """A name for each class: its first word, or as many of its words as tell it from the others, separated by commas.

    Where all of a class's words begin another's list, that class keeps them: of ``bag`` and ``bag, handbag`` the first
    is called ``bag``.
    """
    names = []
    for own in words:
        for length in range(1, len(own) + 1):
            start = tuple(own[:length])
            if sum(tuple(other[:length]) == start for other in words) == 1:
                break
        names.append(", ".join(start))
    assert max(Counter(names).values()) == 1  # no two lists of words are the same
    return tuple(names)


@cache
def benchmark_classes(name: str) -> ClassTable:
    """The classes of a benchmark by its name, in the order in which results are reported."""
    if name == "voc-20":
        return class_table("voc").picked(range(1, 21))
    if name == "voc-21":
        return class_table("voc")
    if name == "pascal-context-59":
        table = class_table("pascal-context")
        return table.picked([i for i, frequent in enumerate(table.others) if frequent])
    return class_table("pascal-context" if name == "pascal-context-459" else name)
