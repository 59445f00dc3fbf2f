"""Class names as rows of a classifier.

Templates of ViLD, see :data:`knnseg.stages.text.VILD`; the most similar synonym speaks for its class, as in OpenSeg
(Ghiasi et al., ECCV 2022, arXiv 2112.12143).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from knnseg.errors import VocabularyError
from knnseg.stages.text import VILD, fill

__all__ = ["TextClassifier", "build_classifier", "is_seen", "synonyms"]


@dataclass(frozen=True, slots=True, eq=False)
class TextClassifier:
    """The rows that masks are compared with.

    Args:
        text: float32 (S, D), unit-norm rows, one for each synonym.
        rows: int64 (C, most), which rows each class has, one of them repeated to fill up.
        seen: bool (C,), whether training knew the class.
    """

    text: Tensor
    rows: Tensor
    seen: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def with_void(self, void: Tensor) -> TextClassifier:
        """One more class at the end, of one row (1, D) of any length; ``seen`` stays without it."""
        text = torch.cat([self.text, F.normalize(void, dim=-1)])
        last = self.rows.new_full((1, self.rows.shape[1]), len(self.text))
        return replace(self, text=text, rows=torch.cat([self.rows, last]))


def synonyms(name: str) -> list[str]:
    """The synonyms of one class, which commas part: ``"automobile, car"`` is two.

    Raises:
        VocabularyError: nothing between two commas.
    """
    parts = name.replace(", ", ",").split(",")
    if not all(part.strip() for part in parts):
        raise VocabularyError("class names", expected="synonyms separated by commas", got=repr(name))
    return parts


def is_seen(classes: Iterable[str], trained: Iterable[str]) -> list[bool]:
    """Whether each class shares a synonym with a class of training, letter for letter."""
    known = {part for name in trained for part in synonyms(name)}
    return [not known.isdisjoint(synonyms(name)) for name in classes]


def build_classifier(
    encode: Callable[[Sequence[str]], Tensor], classes: Sequence[str], trained: Iterable[str], prompts: int = 128
) -> TextClassifier:
    """Encode the classes: each synonym is the mean of its unit vectors over the templates.

    Args:
        encode: prompts to float32 (prompts, D), of any length.
        classes: C names, each with its synonyms.
        trained: the names that training knew.
        prompts: encoded at a time.

    Raises:
        VocabularyError: no class, or an empty name.
    """
    if not classes:
        raise VocabularyError("class names", expected="at least one", got="none")
    groups = [synonyms(name) for name in classes]
    texts = [text for group in groups for name in group for text in fill(VILD, name)]
    rows = torch.cat([encode(texts[i : i + prompts]) for i in range(0, len(texts), prompts)])
    mean = F.normalize(rows, dim=-1).view(-1, len(VILD), rows.shape[1]).mean(1)
    text = F.normalize(mean, dim=-1)
    seen = torch.tensor(is_seen(classes, trained), device=text.device)
    return TextClassifier(text, class_rows([len(group) for group in groups]).to(text.device), seen)


def class_rows(counts: Sequence[int]) -> Tensor:
    """int64 (C, most): the rows of classes that follow one another with so many rows each."""
    table, start, most = [], 0, max(counts)
    for count in counts:
        table.append([start + min(i, count - 1) for i in range(most)])
        start += count
    return torch.tensor(table)
