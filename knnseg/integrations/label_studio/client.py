"""What the ML backend asks of Label Studio: tasks with their annotations, and images.

It speaks to one host. The address of an image is data that anybody may have imported, so one of another host is never
asked for, a redirection is not followed, and a file of this machine is read below one folder only.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

from knnseg.errors import ConfigError, DatasetError

__all__ = ["Client"]

_MOST = 64 << 20
"""Bytes of one answer."""
_PAGE = 100
"""Tasks that are asked for at a time."""


class Client:
    """The API of one Label Studio.

    Args:
        url: of Label Studio.
        token: of a user: a personal access token or a legacy one.
        files: the folder that Label Studio serves local files from; None asks Label Studio for them.
        seconds: for one answer, at most.

    Raises:
        ConfigError: no such URL, token or folder.
    """

    def __init__(self, url: str, token: str, *, files: Path | None = None, seconds: float = 30) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise ConfigError("Label Studio", expected="a URL such as http://localhost:8080, without a user or a query")
        if not token.strip() or not token.isascii():
            raise ConfigError("Label Studio", expected="an access token of its page Account & Settings", got="none")
        if files is not None and not files.is_dir():
            raise ConfigError("local files", expected="a folder", got=files)
        self.url = url.rstrip("/") + "/"
        self.host = parts.netloc
        self._files, self._seconds = None if files is None else files.resolve(), seconds
        self._http = httpx.Client(auth=_Token(self.url, token.strip()), timeout=seconds, follow_redirects=False)

    def task(self, number: int) -> dict[str, Any] | None:
        """A task with its annotations; None where there is no such task any more."""
        return self._json(f"api/tasks/{number}/", missing=True)

    def annotated(self, project: int) -> Iterator[int]:
        """The numbers of the tasks of a project that have annotations."""
        for page in range(1, 1 << 20):
            answer = self._json(f"api/tasks?project={project}&page={page}&page_size={_PAGE}")
            tasks = (answer or {}).get("tasks") or []
            yield from (int(task["id"]) for task in tasks if task.get("total_annotations"))
            if len(tasks) < _PAGE:
                return

    def image(self, address: str) -> tuple[str | bytes, str]:
        """The image at an address of a task: its path or its bytes, and where it is.

        Raises:
            DatasetError: it is elsewhere than in this Label Studio, too large, or cannot be had.
        """
        full = _parsed(self.url, address)
        if full is None or _origin(full) != _origin(httpx.URL(self.url)):
            raise DatasetError(
                f"image {address!r:.200}",
                expected=f"an address of {self.url}",
                got="one of another place, which is not asked",
                hint="Import the images into Label Studio, or serve them as its local files.",
            )
        if self._files is not None and full.path.endswith("/data/local-files/"):
            path = self._file(full.params.get("d", ""))
            return str(path), path.as_uri()
        return self._get(str(full)), str(full)

    def _file(self, name: str) -> Path:
        assert self._files is not None  # asked only then
        path = (self._files / name.lstrip("/")).resolve()
        if not path.is_relative_to(self._files) or not path.is_file():
            raise DatasetError(f"local file {name!r:.200}", expected=f"a file below {self._files}", got="none there")
        if path.stat().st_size > _MOST:
            raise DatasetError(f"local file {name!r:.200}", expected=f"at most {_MOST:,} bytes", got="more")
        return path

    def _json(self, path: str, *, missing: bool = False) -> dict[str, Any] | None:
        answer = self._get(self.url + path, missing=missing)
        if not answer:
            return None
        try:
            decoded = json.loads(answer)
        except ValueError:
            decoded = None
        if not isinstance(decoded, dict):
            raise DatasetError(
                f"{self.url}{path}", expected="a JSON object, as Label Studio answers", got="something else"
            )
        return decoded

    def _get(self, url: str, *, missing: bool = False) -> bytes:
        """What is at an address of Label Studio; empty where it may be missing and is.

        Raises:
            DatasetError: any other status than 200, no connection, or an answer too large or too slow.
        """
        until, data = time.monotonic() + self._seconds, bytearray()
        try:
            with self._http.stream("GET", url) as response:
                if missing and response.status_code == 404:
                    return b""
                if response.status_code != 200:
                    hint = "Check the access token." if response.status_code in (401, 403) else ""
                    raise DatasetError(url, expected="status 200", got=response.status_code, hint=hint)
                for part in response.iter_bytes():
                    data += part
                    if len(data) > _MOST or time.monotonic() > until:
                        raise DatasetError(url, expected=f"at most {_MOST:,} bytes in {self._seconds:g} s", got="more")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise DatasetError(url, expected="an answer of Label Studio", got=str(error)) from error
        return bytes(data)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


def _parsed(base: str, address: str) -> httpx.URL | None:
    """An address as it will be asked for; None for what is no address, or names a user."""
    try:
        full = httpx.URL(urljoin(base, address))
    except (ValueError, httpx.InvalidURL):
        return None
    return None if full.userinfo else full


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


class _Token(httpx.Auth):
    """A legacy token goes with each request; a personal one is exchanged for one that holds for some minutes."""

    def __init__(self, url: str, token: str) -> None:
        self._url, self._token = f"{url}api/token/refresh/", token
        self._personal = token.count(".") == 2  # a JSON web token has three parts
        self._header = "" if self._personal else f"Token {token}"

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """See :class:`httpx.Auth`."""
        if self._header:
            request.headers["Authorization"] = self._header
            response = yield request
            if response.status_code != 401 or not self._personal:
                return
        answer = yield httpx.Request("POST", self._url, json={"refresh": self._token})
        if answer.status_code == 200:
            self._header = f"Bearer {json.loads(answer.read())['access']}"
            request.headers["Authorization"] = self._header
        yield request
