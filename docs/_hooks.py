"""Docstrings are written for editors too, with roles such as :class:`X`. On the site they are plain code."""

import re
from typing import Any

_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):(<code>)~?(?:[\w.]+\.)?(?=\w+</code>)")


def on_page_content(html: str, **_: Any) -> str:
    """Called by mkdocs with the HTML of each page."""
    return _ROLE.sub(r"\1", html)
