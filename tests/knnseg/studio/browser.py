"""The Chromium of the system; no test brings one."""

import os
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium():
    """Its path. Where there is none the test is skipped; ``KNNSEG_REQUIRE=chromium`` makes that a failure."""
    found = os.environ.get("KNNSEG_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is not None:
        return found
    reason = f"no browser: expected {', '.join(NAMES)} on the path, or the path of one in KNNSEG_CHROMIUM"
    if "chromium" in os.environ.get("KNNSEG_REQUIRE", "").split(","):
        pytest.fail(reason)
    pytest.skip(reason)
