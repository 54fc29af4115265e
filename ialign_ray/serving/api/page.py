"""`/`: the playground, files of this package alone, so that it works without a network.

Its scripts use the API as any client does; the files themselves tell nothing of the models, so they ask for no key.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.exceptions import HTTPException

router = APIRouter(include_in_schema=False)

HEADERS: Final = {
    # Scripts and styles of this server's files alone, never of the page's text: what a model writes cannot run, and
    # what the page reads can go nowhere else. https://www.w3.org/TR/CSP3/
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_TYPES: Final = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_INDEX: Final = "index.html"


@router.get("/")
async def index() -> Response:
    """The page."""
    return _response(_INDEX)


@router.get("/page/{name}")
async def part(name: str) -> Response:
    """A file of the page."""
    if name not in _files():
        raise HTTPException(404)
    return _response(name)


def _response(name: str) -> Response:
    return Response(_files()[name], media_type=_TYPES[name.rpartition(".")[2]], headers=HEADERS)


@cache
def _files() -> dict[str, bytes]:
    """All files by name, read once: what is asked for is only looked up."""
    found = [*(files("ialign_ray.serving") / "page").iterdir(), files("ialign_ray.pages") / "house.css"]
    return {file.name: file.read_bytes() for file in found if file.name.rpartition(".")[2] in _TYPES}
