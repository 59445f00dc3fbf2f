"""Measuring a segmenter on labelled images, the base prediction and the final one in the same pass.

    >>> report = evaluate(segmenter, dataset, dataset.vocabulary)                         # doctest: +SKIP
    >>> report.to_dict()["final"]["miou"]                                                 # doctest: +SKIP

With ``journal=Journal(folder / "progress.jsonl", settings)`` a run that was killed goes on where it stopped.
:func:`write_page` makes a page of the report with pictures. ``knnseg eval`` does all of it.
"""

from knnseg.evaluation.counts import ImageCounts, Quality
from knnseg.evaluation.journal import Journal
from knnseg.evaluation.report import Report
from knnseg.evaluation.run import evaluate
from knnseg.evaluation.settings import settings_of

__all__ = ["ImageCounts", "Journal", "Quality", "Report", "evaluate", "settings_of"]
