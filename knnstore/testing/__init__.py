"""The conformance kit: one class that holds a backend to the whole contract. Needs ``pip install 'knnstore[testing]'``.

An author of a backend writes a subclass with one fixture, and pytest does the rest::

    import pytest
    from knnstore.testing import StoreTests

    class TestMyStore(StoreTests):
        expected_failures = {"test_filter[str-lt]": "the engine does not order strings"}

        @pytest.fixture
        def store_url(self, tmp_path):
            return f"mystore://{tmp_path}/store"

``store_url`` returns a fresh URL for each check: a place where nothing is stored, which must stay the same place when
it is opened again, and below which (:meth:`knnstore.StoreURL.child`) further collections can be made. Options that a
check should run with go into the URL; a second subclass with other options checks those.

A gap is declared in ``expected_failures``, under the name of a check or of one of its cases. It is run all the same,
as a strict xfail: should it pass one day, the test run fails until the entry is removed. Nothing is skipped silently.

Answers are compared with brute force in float64, with ties free among themselves and with the rounding allowed that
float32 products can have. Where a backend declares itself approximate, at least ``capabilities.recall_floor`` of the
true neighbours must be found. Exact backends in this process must also answer the same bits whatever else is stored.
All random numbers come from fixed seeds, and Hypothesis runs derandomised, so that a run can be repeated.
"""

from __future__ import annotations

import pytest

_PARTS = ("_concurrency", "_errors", "_filtering", "_machine", "_opening", "_oracle", "_precision", "_reading",
          "_search", "_updating", "_values", "_vectors", "_writing", "_data")  # fmt: skip
# A failed assert then shows its values, as in the author's own test files. Must come before the imports below.
pytest.register_assert_rewrite(*(f"{__name__}.{part}" for part in _PARTS))

from knnstore.testing._concurrency import ClosingChecks, ConcurrencyChecks  # noqa: E402
from knnstore.testing._errors import ErrorChecks  # noqa: E402
from knnstore.testing._filtering import FilterChecks  # noqa: E402
from knnstore.testing._machine import StateMachineChecks  # noqa: E402
from knnstore.testing._opening import OpeningChecks  # noqa: E402
from knnstore.testing._precision import PrecisionChecks  # noqa: E402
from knnstore.testing._reading import ReadChecks  # noqa: E402
from knnstore.testing._search import SearchChecks  # noqa: E402
from knnstore.testing._updating import UpdateChecks  # noqa: E402
from knnstore.testing._values import ValueChecks  # noqa: E402
from knnstore.testing._vectors import VectorChecks  # noqa: E402
from knnstore.testing._writing import WriteChecks  # noqa: E402

__all__ = ["StoreTests"]


class StoreTests(
    SearchChecks, FilterChecks, VectorChecks, WriteChecks, ReadChecks, OpeningChecks, ErrorChecks, ConcurrencyChecks,
    StateMachineChecks, ValueChecks, ClosingChecks, UpdateChecks, PrecisionChecks,
):  # fmt: skip
    """Every check of the kit. Subclass it under a name that starts with ``Test`` and give the fixture ``store_url``."""
