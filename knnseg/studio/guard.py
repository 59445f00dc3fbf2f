"""Who may ask: the page itself, in the browser of whoever was given its link.

Three things are looked at before anything else is done:

- **Host.** A page of somebody else can make its own name lead to this machine (DNS rebinding) and would then be of the
  same origin. Only names of this machine are served.
- **Origin.** A page of somebody else can send requests here (CSRF). What changes something must come from this page.
- **Token.** Where the server listens to other machines, everything but the empty page needs the token of its link.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from knnseg.errors import ConfigError
from knnseg.studio.answers import failed

__all__ = ["Guard", "is_loopback", "listening", "own_names"]

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SAFE = ("GET", "HEAD")
_PUBLIC = ("/", "/api/login")
"""What is served without a token: the page, with its script and style, and the door."""
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listening(what: str, host: str, port: int) -> socket.socket:
    """A socket that listens on an address; port 0 takes a free one.

    Raises:
        ConfigError: it cannot listen there.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        said = f"{what}: cannot listen on {host}, port {port}: {error}"
        raise ConfigError(said, hint="Choose another (--host, --port).") from error


def own_names(host: str) -> frozenset[str]:
    """The names that a server which listens on a host goes by; addresses are looked at by :class:`Guard`."""
    if is_loopback(host):
        return frozenset({*LOOPBACK, host})
    return frozenset({*LOOPBACK, host, socket.gethostname().lower(), socket.getfqdn().lower()})


class Guard:
    """The checks above, around an application.

    Args:
        app: what is guarded.
        names: host names that are served, in lower case.
        addresses: any address is served too, since no name leads there but by its own resolution; for a server that
            listens to other machines.
        token: what the link has; "" for none.
        cookie: the name of the cookie that carries it.
    """

    def __init__(
        self, app: ASGIApp, *, names: Collection[str], addresses: bool = False, token: str = "", cookie: str = ""
    ) -> None:
        self._app, self._names, self._addresses = app, frozenset(names), addresses
        self._token, self._cookie = token, cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refused = self._refusal(scope, Headers(scope=scope))
        await (failed(*refused) if refused else self._app)(scope, receive, with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        """The status and the reason of what is refused."""
        host = headers.get("host", "")
        if not self._is_ours(host):
            return 403, "host: expected a name of this machine in the address. Use the link that the command printed."
        if scope["method"] not in _SAFE:
            origin = headers.get("origin")
            foreign = origin is not None and urlsplit(origin).netloc != host
            if foreign or headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
                return 403, "origin: expected a request of this page, got one of another."
        path: str = scope["path"]
        if self._token and path not in _PUBLIC and not path.startswith("/static/") and not self._has_token(headers):
            return 401, "token: expected the link with its token, as the command printed it."
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._addresses

    def _has_token(self, headers: Headers) -> bool:
        given = headers.get("authorization", "").removeprefix("Bearer ")
        if not given:
            try:
                morsel = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
            except CookieError:
                return False
            given = "" if morsel is None else morsel.value
        return hmac.compare_digest(given.encode(), self._token.encode())
