"""The ML backend as Label Studio asks for it: ``/health``, ``/setup``, ``/predict`` and ``/webhook``."""

from __future__ import annotations

import base64
import hmac
import json
import logging
from collections.abc import Callable
from contextlib import closing
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from knnseg.errors import ConfigError, DatasetError, KnnSegError
from knnseg.export.label_studio import LabelConfig
from knnseg.integrations.label_studio.backend import Backend
from knnseg.studio.guard import is_loopback, listening
from knnstore import KnnStoreError

__all__ = ["Listener", "make_app"]

_MOST = 32 << 20
"""Bytes of one request."""
_log = logging.getLogger(__name__)


def make_app(backend: Backend, auth: str = "") -> ASGIApp:
    """The application.

    Args:
        backend: what answers.
        auth: ``user:password`` of HTTP basic authentication; "" asks for none.
    """

    def setup(given: dict[str, Any]) -> dict[str, Any]:
        LabelConfig.parse(_text(given, "schema"))
        return {"model_version": backend.version}

    def predict(given: dict[str, Any]) -> dict[str, Any]:
        tasks = given.get("tasks")
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
            raise DatasetError("predict", expected="a list of tasks", got="something else")
        return {"results": backend.predict(tasks, _text(given, "label_config"))}

    def webhook(given: dict[str, Any]) -> dict[str, Any]:
        backend.notice(given)
        return {"status": "taken"}

    def health(_: Request) -> Response:
        return JSONResponse({"status": "UP", "model_class": "knnseg", "model_version": backend.version})

    posted = [("/setup", setup), ("/predict", predict), ("/webhook", webhook)]
    routes = [Route(path, _endpoint(answer), methods=["POST"]) for path, answer in posted]
    return _Guard(Starlette(routes=[Route("/", health), Route("/health", health), *routes]), auth)


def _text(given: dict[str, Any], key: str) -> str:
    value = given.get(key)
    if not isinstance(value, str):
        raise DatasetError(key, expected="a labelling configuration", got=type(value).__name__)
    return value


def _endpoint(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Request], Any]:
    """From a function on JSON objects to one on requests; what it computes runs in another thread."""

    async def endpoint(request: Request) -> Response:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > _MOST:
                return _refused(413, f"expected at most {_MOST:,} bytes, got more")
        try:
            given = json.loads(body)
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict):
            return _refused(400, "expected a JSON object")
        try:
            return JSONResponse(await run_in_threadpool(answer, given))
        except (KnnSegError, KnnStoreError) as error:
            _log.error("%s: %s", request.url.path, error)
            return _refused(400 if isinstance(error, DatasetError) else 500, str(error))

    return endpoint


def _refused(status: int, reason: str) -> JSONResponse:
    return JSONResponse({"error": reason}, status, {"WWW-Authenticate": "Basic"} if status == 401 else None)


class _Guard:
    """No page in a browser may ask, and where there is a password nobody without it.

    Label Studio itself is no browser: it sends no ``Origin``. A page of somebody else that makes its own name lead to
    this machine does, or at least its browser says where the request comes from.
    """

    def __init__(self, app: ASGIApp, auth: str) -> None:
        self._app = app
        self._expected = b"Basic " + base64.b64encode(auth.encode()) if auth else b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        given = headers.get("authorization", "").encode("latin-1")
        app = self._app
        if "origin" in headers or "sec-fetch-site" in headers:
            app = _refused(403, "expected a request of Label Studio, got one of a browser")
        elif scope["type"] == "http" and self._expected and not hmac.compare_digest(given, self._expected):
            app = _refused(401, "expected the user and password of this ML backend")
        await app(scope, receive, send)


class Listener:
    """A server that listens.

    Args:
        host: the address to listen on.
        port: 0 takes a free one.
        auth: as for :func:`make_app`; needed where other machines reach the address.

    Raises:
        ConfigError: it cannot listen there, or needs a password for it.
    """

    def __init__(self, host: str, port: int, auth: str = "") -> None:
        if auth and not all(auth.partition(":")):
            raise ConfigError("ML backend", expected="user:password", got="something else")
        if not auth and not is_loopback(host):
            hint = "Set KNNSEG_BASIC_AUTH to user:password, and give both to Label Studio where the model is connected."
            expected = f"a user and password, since other machines reach {host}"
            raise ConfigError("ML backend", expected=expected, got="none", hint=hint)
        self._socket = listening("ML backend", host, port)
        self._auth = auth
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._socket.getsockname()[1]}"

    def serve(self, backend: Backend) -> None:
        """Answer until the process is interrupted."""
        with closing(self._socket):
            self.server(backend).run(sockets=[self._socket])

    def server(self, backend: Backend) -> uvicorn.Server:
        """What answers."""
        app = make_app(backend, self._auth)
        return uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, server_header=False))
