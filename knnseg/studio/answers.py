"""Answers as JSON, and the errors among them, in the words of the library."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

__all__ = ["answer", "failed"]


def answer(content: Any, status: int = 200) -> Response:
    """A JSON document. Everything beyond ASCII is escaped: the names of files may have letters that UTF-8 has not."""
    return Response(json.dumps(content, allow_nan=False), status, media_type="application/json")


def failed(status: int, message: str) -> Response:
    """Why something was not done."""
    return answer({"error": message}, status)
