"""From a studio to a server that listens."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterable
from types import TracebackType

import uvicorn

from knnseg.studio.guard import is_loopback, listening, own_names
from knnseg.studio.server import make_app
from knnseg.studio.session import Studio

__all__ = ["Listener"]


class Listener:
    """A server that listens, and the link to its page; a context manager, which stops listening.

    Args:
        host: the address to listen on.
        port: 0 takes a free one.
        token: what the link must have; "" makes one where other machines reach the address, and needs none where only
            this one does.
        names: further host names that it is reached by, as through a proxy.

    Raises:
        ConfigError: it cannot listen there.
    """

    def __init__(self, host: str, port: int, token: str = "", *, names: Iterable[str] = ()) -> None:
        self._socket = listening("studio", host, port)
        self.names = own_names(host) | {name.lower() for name in names}
        self._server: uvicorn.Server | None = None
        self._host, self._port = host, int(self._socket.getsockname()[1])
        self._token = token or ("" if is_loopback(host) else secrets.token_urlsafe(24))

    @property
    def link(self) -> str:
        """What opens the page. The token comes after ``#``, which a browser does not send, so that no log has it."""
        host = self._host if self._host not in ("0.0.0.0", "::") else socket.gethostname()  # noqa: S104  # compared
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self._port}/" + (f"#token={self._token}" if self._token else "")

    def serve(self, studio: Studio) -> None:
        """Answer until the process is interrupted, or :meth:`stop` is called."""
        app = make_app(
            studio, names=self.names, addresses=not is_loopback(self._host), token=self._token,
            cookie=f"knnseg-studio-{self._port}",
        )  # fmt: skip
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, server_header=False))
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """End :meth:`serve`, from another thread."""
        if self._server is not None:
            self._server.should_exit = True

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
