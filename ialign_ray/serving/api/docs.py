"""`/docs`: the OpenAPI document as a page that needs no network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from ialign_ray.pages import house

router = APIRouter(include_in_schema=False)


@router.get("/docs", response_class=HTMLResponse)
async def docs(request: Request) -> HTMLResponse:
    """All routes with their parameters, answers and errors."""
    document = request.app.openapi()
    page = house("ialign_ray.serving.api").get_template("docs.html.j2")
    return HTMLResponse(page.render(version=document["info"]["version"], routes=list(_routes(document))))


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
    """(name, type, whether it is needed, description) of a body's fields."""
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
