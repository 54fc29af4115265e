"""`/`, the playground, and `/docs`, the OpenAPI document as a page: only files of this package, so that both work
without a network.

The playground's scripts use the API as any client does; the files hold nothing about the models, so they need no key.

FastAPI's own `/docs` with `fastapi-offline` would save 85 lines here. It brings 2.7 MB of scripts and starts with a
script inside the page, which the policy below forbids; ours is plain HTML that a terminal browser shows too.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from starlette.exceptions import HTTPException

from ialign_ray.pages import stylesheet, themed

router = APIRouter(include_in_schema=False)

HEADERS: Final = {
    # Only scripts and styles from this server's files, never from the page's text: a model's output cannot run, and
    # the page can send data nowhere else. https://www.w3.org/TR/CSP3/
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
    """Return the playground."""
    return _response(_INDEX)


@router.get("/page/{name}")
async def part(name: str) -> Response:
    """Return a file of the playground."""
    if name not in _files():
        raise HTTPException(404)
    return _response(name)


def _response(name: str) -> Response:
    return Response(_files()[name], media_type=_TYPES[name.rpartition(".")[2]], headers=HEADERS)


@cache
def _files() -> dict[str, bytes]:
    """Read all files once, by name. Names from requests are only looked up here, never opened."""
    found = (files("ialign_ray.serving") / "page").iterdir()
    own = {file.name: file.read_bytes() for file in found if file.name.rpartition(".")[2] in _TYPES}
    return own | {"theme.css": stylesheet().encode()}


@router.get("/docs", response_class=HTMLResponse)
async def docs(request: Request) -> HTMLResponse:
    """Render all routes with their parameters, answers and errors."""
    document = request.app.openapi()
    page = themed("ialign_ray.serving.api").get_template("docs.html.j2")
    routes = list(_routes(document))
    return HTMLResponse(page.render(version=document["info"]["version"], routes=routes), headers=HEADERS)


def _routes(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            yield {
                "title": f"{method.upper()} {path}",
                "summary": operation.get("description", ""),
                "fields": list(_fields(document, body)),
                "responses": [(status, answer["description"]) for status, answer in operation["responses"].items()],
            }


def _fields(document: dict[str, Any], schema: dict[str, Any]) -> Iterator[tuple[str, str, bool, str]]:
    """Yield (name, type, required, description) of a body's fields."""
    named = document["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], {})
    for name, field in named.get("properties", {}).items():
        yield name, _type(field), name in named.get("required", []), field.get("description", "")


def _type(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_type(one) for one in field["anyOf"]))
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    inner = f" of {_type(field['items'])}" if "items" in field else ""
    return f"{field.get('type', 'any')}{inner}"
