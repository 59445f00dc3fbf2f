"""The page and its API over HTTP."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from importlib import resources
from typing import Annotated, TypeVar
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from knnseg.errors import ConfigError, KnnSegError
from knnseg.studio.answers import answer, failed
from knnseg.studio.guard import Guard
from knnseg.studio.session import MaskOf, Studio
from knnstore import KnnStoreError

__all__ = ["make_app"]

B = TypeVar("B", bound=BaseModel)
Handler = Callable[[Request], Awaitable[Response]]

_BODY = 8 << 20
"""Bytes of a JSON request, at most."""
_PHOTOGRAPH = 64 << 20
"""Bytes of a photograph that is dropped on the page, at most."""
_LISTED = 200
"""Examples of a concept that are listed, at most, the newest."""
_STATIC = {"studio.css": "text/css", "studio.js": "text/javascript", "icon.svg": "image/svg+xml"}


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Mask(_Body):
    runs: list[int] = Field(default_factory=list)
    segment: Annotated[int, Field(ge=0)] = 0
    seen: str = ""


class _Teach(_Body):
    image: str
    mask: _Mask
    name: str
    thing: bool | None = None


class _Examples(_Body):
    ids: Annotated[list[str], Field(min_length=1)]


class _Relabel(_Examples):
    name: str


class _Concept(_Body):
    name: str


class _Rename(_Concept):
    to: str


class _Kind(_Concept):
    thing: bool


class _Box(_Body):
    box: tuple[float, float, float, float]


class _Token(_Body):
    token: str


def make_app(
    studio: Studio,
    *,
    names: frozenset[str],
    addresses: bool = False,
    token: str = "",
    cookie: str = "knnseg-studio",
    largest: int = _PHOTOGRAPH,
) -> Starlette:
    """The application.

    Args:
        studio: what it serves.
        names: see :class:`Guard`, as the next three.
        addresses: likewise.
        token: likewise.
        cookie: likewise.
        largest: bytes of a dropped photograph, at most.
    """
    api = _Api(studio, token, cookie, largest)
    return Starlette(
        routes=api.routes(),
        middleware=[
            Middleware(Guard, names=names, addresses=addresses, token=token, cookie=cookie),
            Middleware(GZipMiddleware, compresslevel=4),
        ],
        exception_handlers={
            KnnSegError: _explained, KnnStoreError: _explained, HTTPException: _refused, Exception: _unexpected,
        },
    )  # fmt: skip


async def _explained(_: Request, error: Exception) -> Response:
    return failed(400 if isinstance(error, KnnSegError) else 503, str(error))


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # registered for nothing else
    return failed(error.status_code, error.detail)


async def _unexpected(_: Request, error: Exception) -> Response:
    return failed(500, f"Something went wrong ({type(error).__name__}); the terminal of knnseg studio says more.")


class _Api:
    """The handlers, each of which asks the studio in a thread."""

    def __init__(self, studio: Studio, token: str, cookie: str, largest: int) -> None:
        self._studio, self._token, self._cookie, self._largest = studio, token, cookie, largest
        self._curation = studio.curation

    def routes(self) -> list[Route]:
        """Every address."""
        reading: Mapping[str, Handler] = {
            "/": self._page, "/static/{name}": self._static, "/api/state": self._state, "/api/images": self._images,
            "/api/images/{image}/thumbnail": self._thumbnail, "/api/images/{image}/picture": self._picture,
            "/api/images/{image}/proposals": self._proposals, "/api/images/{image}/segmentation": self._segmentation,
            "/api/images/{image}/segments/{segment:int}": self._evidence, "/api/examples/{example}/picture": self._crop,
            "/api/concepts": self._concepts, "/api/examples": self._examples, "/api/review": self._review,
        }  # fmt: skip
        asking: Mapping[str, Handler] = {
            "/api/login": self._login, "/api/images": self._drop, "/api/images/{image}/outline": self._outline,
        }  # fmt: skip
        writing: Mapping[str, Handler] = {
            "/api/teach": self._teach, "/api/undo": self._undo,
            "/api/examples/relabel": self._relabel, "/api/examples/delete": self._delete,
            "/api/concepts/rename": self._rename, "/api/concepts/kind": self._kind,
            "/api/concepts/remove": self._remove,
        }  # fmt: skip
        return [
            *(Route(path, handler, methods=["GET"]) for path, handler in reading.items()),
            *(Route(path, handler, methods=["POST"]) for path, handler in asking.items()),
            *(Route(path, self._writable(handler), methods=["POST"]) for path, handler in writing.items()),
        ]

    def _writable(self, handler: Handler) -> Handler:
        async def checked(request: Request) -> Response:
            if self._studio.read_only:
                raise HTTPException(403, "This page is read-only: knnseg studio was started with --read-only.")
            return await handler(request)

        return checked

    # -- the page -----------------------------------------------------------------------------------------------------

    async def _page(self, _: Request) -> Response:
        return Response(_file("index.html"), media_type="text/html")

    async def _static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _STATIC:
            raise HTTPException(404, f"expected one of {', '.join(_STATIC)}")
        return Response(_file(name), media_type=_STATIC[name])

    async def _login(self, request: Request) -> Response:
        given = (await _body(request, _Token)).token
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            return failed(401, "token: expected the link with its token, as the command printed it.")
        done = answer({})
        done.set_cookie(self._cookie, self._token, httponly=True, samesite="strict")
        return done

    # -- looking ------------------------------------------------------------------------------------------------------

    async def _state(self, _: Request) -> Response:
        return answer(await run_in_threadpool(self._studio.state))

    async def _images(self, _: Request) -> Response:
        listed = await run_in_threadpool(self._studio.gallery.listed)
        return answer([asdict(photograph) for photograph in listed])

    async def _thumbnail(self, request: Request) -> Response:
        return _jpeg(await run_in_threadpool(self._studio.gallery.thumbnail, request.path_params["image"]))

    async def _picture(self, request: Request) -> Response:
        return _jpeg(await run_in_threadpool(self._studio.picture, request.path_params["image"]))

    async def _proposals(self, request: Request) -> Response:
        return answer(await run_in_threadpool(self._studio.proposals, request.path_params["image"]))

    async def _segmentation(self, request: Request) -> Response:
        return answer(await run_in_threadpool(self._studio.segmentation, request.path_params["image"]))

    async def _evidence(self, request: Request) -> Response:
        image, segment = request.path_params["image"], request.path_params["segment"]
        seen = request.query_params.get("seen", "")
        return answer(await run_in_threadpool(self._studio.evidence, image, segment, seen))

    async def _crop(self, request: Request) -> Response:
        picture = await run_in_threadpool(self._studio.crop, request.path_params["example"])
        if picture is None:
            raise HTTPException(404, "example: its photograph is not where it was.")
        return _jpeg(picture)

    async def _concepts(self, _: Request) -> Response:
        return answer(await run_in_threadpool(self._curation.concepts))

    async def _examples(self, request: Request) -> Response:
        concept = request.query_params.get("concept", "")
        return answer(await run_in_threadpool(self._curation.examples, concept, _LISTED))

    async def _review(self, _: Request) -> Response:
        return answer(await run_in_threadpool(self._studio.review))

    # -- asking with something --------------------------------------------------------------------------------------

    async def _drop(self, request: Request) -> Response:
        name = unquote(request.headers.get("x-name", ""))
        content = await _bounded(request, self._largest)
        return answer(asdict(await run_in_threadpool(self._studio.gallery.drop, name, content)))

    async def _outline(self, request: Request) -> Response:
        box = (await _body(request, _Box)).box
        return answer(await run_in_threadpool(self._studio.outline, request.path_params["image"], box))

    # -- changing -----------------------------------------------------------------------------------------------------

    async def _teach(self, request: Request) -> Response:
        asked = await _body(request, _Teach)
        mask = MaskOf(asked.mask.runs, asked.mask.segment, asked.mask.seen)
        done = await run_in_threadpool(self._studio.teach, asked.image, mask, asked.name, thing=asked.thing)
        return answer(done)

    async def _undo(self, request: Request) -> Response:
        await _body(request, _Body)
        return answer(await run_in_threadpool(self._curation.undo))

    async def _relabel(self, request: Request) -> Response:
        asked = await _body(request, _Relabel)
        return answer(await run_in_threadpool(self._curation.relabel, asked.ids, asked.name))

    async def _delete(self, request: Request) -> Response:
        asked = await _body(request, _Examples)
        return answer(await run_in_threadpool(self._curation.delete, asked.ids))

    async def _rename(self, request: Request) -> Response:
        asked = await _body(request, _Rename)
        return answer(await run_in_threadpool(self._curation.rename, asked.name, asked.to))

    async def _kind(self, request: Request) -> Response:
        asked = await _body(request, _Kind)
        return answer(await run_in_threadpool(self._curation.set_kind, asked.name, thing=asked.thing))

    async def _remove(self, request: Request) -> Response:
        asked = await _body(request, _Concept)
        return answer(await run_in_threadpool(self._curation.remove, asked.name))


def _file(name: str) -> bytes:
    return (resources.files("knnseg.studio") / "static" / name).read_bytes()


def _jpeg(picture: bytes) -> Response:
    return Response(picture, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=60"})


async def _bounded(request: Request, most: int) -> bytes:
    """The body of a request, refused as soon as it is longer than it may be."""
    parts, length = list[bytes](), 0
    async for part in request.stream():
        length += len(part)
        if length > most:
            raise HTTPException(413, f"expected at most {most / (1 << 20):.0f} MB, got more.")
        parts.append(part)
    return b"".join(parts)


async def _body(request: Request, kind: type[B]) -> B:
    """The body of a request as JSON; a form of another page cannot send that type."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "expected Content-Type: application/json")
    try:
        return kind.model_validate_json(await _bounded(request, _BODY))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "request"
        raise ConfigError(f"{where}: {first['msg']}") from None
