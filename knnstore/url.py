"""Store URLs: ``scheme[+variant]://[user:password@]host[:port]/path?option=value``."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from knnstore.errors import InvalidURLError, did_you_mean

__all__ = ["SECRET_SOURCES", "Secret", "StoreURL", "printable"]

SECRET_SOURCES = ("", "_env", "_file")
"""What a secret option may be called: ``api_key``, or the variable or the file that holds it."""

_WORD = re.compile(r"[A-Za-z0-9+._-]{1,40}")
_ESCAPE = "Write special characters as %XX: %23 for '#', %2F for '/', %3F for '?', %40 for '@'."
_HIDDEN = "***"
_SCHEME = re.compile(r"[a-z][a-z0-9]*(\+[a-z][a-z0-9]*)?")
_SECRET = re.compile(r"(.*_)?(password|passwd|pwd|token|secret|api_?key|credentials?)", re.IGNORECASE)


class Secret:
    """A text that nothing shows by accident: not ``str``, ``repr``, an f-string, ``vars``, ``asdict`` or JSON.

    >>> key = Secret("hunter2")
    >>> f"{key}", [key], key.reveal()
    ('***', [***], 'hunter2')

    A pickle has the text itself, since other processes have to open stores too.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        self._text = text

    def reveal(self) -> str:
        """The text, for who has to send it."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return _HIDDEN if self else "''"

    def __str__(self) -> str:
        return _HIDDEN if self else ""


@dataclass(frozen=True, slots=True, repr=False)
class StoreURL:
    """A parsed store URL. Its text is the only one that is printed, and shows no secret; nor does any of its parts.

    Args:
        backend: the scheme before a ``+``; the name of the plugin.
        variant: the scheme after the ``+``, or "".
        host: host name, "" for an embedded store.
        port: port, None where not given.
        path: percent-decoded path with its leading slash: a folder, or the name of a collection.
        options: what follows ``?``, each name once; those that are secrets by their name as a :class:`Secret`.
        user: user name, or "".
        password: password, or an empty one.
    """

    backend: str
    variant: str = ""
    host: str = ""
    port: int | None = None
    path: str = ""
    options: Mapping[str, str | Secret] = field(default_factory=dict)
    user: str = ""
    password: Secret = field(default_factory=Secret)

    def __post_init__(self) -> None:
        options = {
            name: Secret(v) if isinstance(v, str) and _is_secret(name) else v for name, v in self.options.items()
        }
        object.__setattr__(self, "options", options)
        if isinstance(self.password, str):
            object.__setattr__(self, "password", Secret(self.password))

    def __hash__(self) -> int:
        options = frozenset(self.options.items())
        return hash((self.backend, self.variant, self.host, self.port, self.path, options, self.user, self.password))

    @classmethod
    def parse(cls, url: str | StoreURL) -> StoreURL:
        """Take a URL apart.

        Raises:
            InvalidURLError: no scheme, a port that is not a number, an option twice. The message quotes nothing that
                could be part of a password, whatever went wrong.
        """
        if isinstance(url, StoreURL):
            return url
        if not isinstance(url, str):
            raise InvalidURLError("store URL", expected="text such as faiss:///folder", got=type(url).__name__)
        scheme, separator, _ = url.partition("://")
        if not separator or not _SCHEME.fullmatch(scheme):
            raise InvalidURLError(
                "store URL",
                expected="scheme://…, such as faiss:///folder or qdrant://host:6334/name",
                got=f"the scheme {scheme!r}" if separator and _WORD.fullmatch(scheme) else "text without a scheme",
            )
        if any(ord(letter) < 32 for letter in url):
            raise InvalidURLError(
                f"store URL {scheme}://…", expected="no control characters", hint="Write them as %XX."
            )
        # urlsplit does not know our schemes' query rules when the scheme has a "+", so it parses a stand-in.
        try:
            parts = urlsplit("store" + url[len(scheme) :])
            port = parts.port
        except ValueError:
            # The reason that Python gives quotes what it read, which may be half of a password with a slash in it.
            raise InvalidURLError(
                f"store URL {scheme}://…",
                expected="[user:password@]host[:port] with a port of at most 65535",
                hint=_ESCAPE,
            ) from None
        if "#" in url:
            raise InvalidURLError(f"store URL {scheme}://…", expected="no '#'", hint=_ESCAPE)
        if parts.netloc and "@" in parts.path and not parts.username:
            raise InvalidURLError(f"store URL {scheme}://…", expected="no '@' in the path", hint=_ESCAPE)
        options = _read_options(parts.query, scheme)
        backend, _, variant = scheme.partition("+")
        return cls(
            backend, variant, parts.hostname or "", port, unquote(parts.path), options,
            unquote(parts.username or ""), Secret(unquote(parts.password or "")),
        )  # fmt: skip

    def child(self, name: str) -> StoreURL:
        """The same place, one name further down; how one URL holds several embedding spaces.

        Raises:
            InvalidURLError: a name that is empty or a dot, or has a slash in it.
        """
        if not name or name in (".", "..") or "/" in name:
            raise InvalidURLError(f"child of {self}", expected="one plain name", got=repr(name))
        return replace(self, path=f"{self.path.rstrip('/')}/{name}")

    def check_options(self, known: Iterable[str]) -> Mapping[str, str | Secret]:
        """The options, all of them among ``known``.

        Raises:
            InvalidURLError: an option that this backend does not have, with the nearest that it has.
        """
        names = sorted(known)
        for name in self.options:
            if name not in names:
                raise InvalidURLError(  # shown without options: a misspelt one may hold a secret
                    f"{replace(self, options={})}: option {name!r}",
                    expected=f"one of {names}" if names else "no options",
                    hint=did_you_mean(name, names),
                )
        return self.options

    def secret(self, name: str) -> Secret:
        """A secret option: itself, or what the variable ``name_env`` or the file ``name_file`` holds; or an empty one.

        Raises:
            InvalidURLError: it is given twice, or is not where the URL says that it is.
        """
        given = [name + suffix for suffix in SECRET_SOURCES if name + suffix in self.options]
        if len(given) > 1:
            raise InvalidURLError(f"{self}", expected=f"one of {', '.join(given)}", got="both")
        if not given:
            return Secret()
        value = self._resolved(given[0])
        if not value:
            kind = {"_env": "an environment variable", "_file": "a readable file"}.get(given[0][len(name) :], "a value")
            raise InvalidURLError(f"option {given[0]}", expected=f"{kind} with the secret", got="nothing there")
        return Secret(value)

    def secrets(self) -> list[str]:
        """The secret values, longest first, those in variables and files too; for who must keep them out of a text."""
        names = [name for name in self.options if _is_secret(_stem(name)) or _may_be_secret(name)]
        values = {self.password.reveal(), *map(self._resolved, names), "" if self._user_is_known else self.user} - {""}
        return sorted(values, key=len, reverse=True)

    def _resolved(self, option: str) -> str:
        """What a secret option stands for; "" where its variable or file is not there."""
        given = self.options[option]
        value = given.reveal() if isinstance(given, Secret) else given
        if option.endswith("_env"):
            return os.environ.get(value, "")
        if option.endswith("_file"):
            try:
                return Path(value).read_text(encoding="utf-8").strip()
            except (OSError, ValueError):
                return ""
        return value

    @property
    def _user_is_known(self) -> bool:
        """Whether the user is a name, since a password goes with it; by itself it may be a key or a token."""
        return bool(self.password) or any(_is_secret(_stem(name)) for name in self.options)

    def redact(self, text: str) -> str:
        """A text of unknown origin with every secret of this URL replaced by ``***``, however it is escaped."""
        for secret in self.secrets():
            text = re.sub("".join(map(_escaped_anyhow, secret)), _HIDDEN, text)
        return text

    def __str__(self) -> str:
        """The URL with secrets replaced by ``***``; it parses again, without them."""
        scheme = f"{self.backend}+{self.variant}" if self.variant else self.backend
        user = quote(self.user) if self._user_is_known else _HIDDEN if self.user else ""
        at = f"{user}{':' if self.password else ''}{self.password}@" if user or self.password else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port is not None else ""
        options = {name: _HIDDEN if _may_be_secret(name) else value for name, value in self.options.items()}
        query = f"?{urlencode(options, safe='*/:,')}" if options else ""
        return f"{scheme}://{at}{host}{port}{quote(self.path)}{query}"

    def __repr__(self) -> str:
        return f"StoreURL({str(self)!r})"


def printable(text: str) -> str:
    """A text that was meant as a store URL, as it may be printed: without secrets, or nothing but its scheme.

    >>> printable("qdrant://db/c?tls=1&api_key=hunter2"), printable("milvus://me:hunter2@[host:port]/c")
    ('qdrant://db/c?tls=1&api_key=***', 'milvus://…')
    """
    try:
        return str(StoreURL.parse(text))
    except InvalidURLError:
        scheme = text.partition(":")[0]
        return f"{scheme}://…" if _SCHEME.fullmatch(scheme) else "…"


def _read_options(query: str, scheme: str) -> dict[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True)
    if not all(_WORD.fullmatch(name) for name, _ in pairs):  # it may be half of a password with a question mark in it
        raise InvalidURLError(f"store URL {scheme}://…", expected="options such as name=value", hint=_ESCAPE)
    if len(dict(pairs)) != len(pairs):
        raise InvalidURLError(f"store URL {scheme}://…", expected="each option once", got=sorted(k for k, _ in pairs))
    return dict(pairs)


def _stem(name: str) -> str:
    return name.removesuffix("_env").removesuffix("_file")


def _is_secret(name: str) -> bool:
    """Options that carry a secret itself; ``api_key_env`` and ``api_key_file`` only say where one is."""
    return _SECRET.fullmatch(name) is not None


def _may_be_secret(name: str) -> bool:
    """The same, and those that are misspelt."""
    near = difflib.get_close_matches(name.lower(), ("password", "token", "secret", "api_key", "credentials"), 1, 0.8)
    return _is_secret(name) or (bool(near) and _stem(name) == name)


def _escaped_anyhow(letter: str) -> str:
    """A pattern of a letter as it is, or as URLs, JSON, forms and Python write it."""
    forms = {letter, json.dumps(letter)[1:-1], repr(letter)[1:-1], f"\\{letter}", "+" if letter == " " else letter}
    octets = "".join(f"%{octet:02x}" for octet in letter.encode(errors="surrogateescape"))
    return f"(?:{'|'.join(map(re.escape, sorted(forms)))}|(?i:{octets}))"


def without_urls(text: str, words: Iterable[str]) -> str:
    """A text in which no URL among some words stands as it was given: it may have been meant for another place.

    Args:
        text: such as what is said of wrong usage.
        words: of a command line.
    """
    given = {part for word in words for part in (word, word.partition("=")[2]) if ":/" in part}
    for part in sorted(given, key=len, reverse=True):
        shown = printable(part)
        for form in (part, repr(part)[1:-1], str(Path(part))):
            text = text.replace(form, shown)
    return text
