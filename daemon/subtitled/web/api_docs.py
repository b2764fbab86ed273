"""The API reference, rendered from the OpenAPI document."""

from __future__ import annotations

from functools import cache
from typing import Any

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from subtitled.http.openapi import document
from subtitled.web import rendering

_NAME_CHARS = len("#/components/schemas/")


class Operation(Struct, frozen=True, kw_only=True):
    """One method of a path."""

    id: str
    method: str
    path: str
    summary: str
    parameters: tuple[tuple[str, str, str, str], ...]
    """(name, place, type, description)."""
    responses: tuple[tuple[str, str, str], ...]
    """(status, description, schema or "")."""


async def show(request: Request) -> Response:
    """Respond with the page."""
    operations, schemas = reference()
    return rendering.page(request, "docs.html", operations=operations, schemas=schemas)


@cache
def reference() -> tuple[list[Operation], dict[str, list[tuple[str, str, str]]]]:
    """Return all operations, and (field, type, description) of each schema."""
    api = document()
    operations = [
        _operation(method, path, operation)
        for path, methods in api["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = {
        name: [
            (field, type_name(value), value.get("description", ""))
            for field, value in schema.get("properties", {}).items()
        ]
        for name, schema in api["components"]["schemas"].items()
    }
    return operations, {name: fields for name, fields in schemas.items() if fields}


def _operation(method: str, path: str, operation: dict[str, Any]) -> Operation:
    return Operation(
        id=f"{method}{path.replace('/', '-').replace('{', '').replace('}', '')}",
        method=method.upper(),
        path=path,
        summary=operation["summary"],
        parameters=tuple(
            (
                parameter["name"],
                parameter["in"],
                type_name(parameter.get("schema") or parameter["content"]["application/json"]["schema"]),
                parameter.get("description", ""),
            )
            for parameter in operation["parameters"]
        ),
        responses=tuple(
            (status, response["description"], _schema_of(response))
            for status, response in operation["responses"].items()
        ),
    )


def _schema_of(response: dict[str, Any]) -> str:
    schema = response.get("content", {}).get("application/json", {}).get("schema", {})
    return str(schema.get("$ref", ""))[_NAME_CHARS:]


def type_name(schema: dict[str, Any]) -> str:
    """Return a short description of a JSON schema's type."""
    match schema:
        case {"$ref": ref}:
            return str(ref)[_NAME_CHARS:]
        case {"enum": values}:
            return " | ".join(str(value) for value in values)
        case {"anyOf": schemas}:
            return " | ".join(type_name(one) for one in schemas)
        case {"type": "array"}:
            items = schema.get("items") or {}
            return f"array of {type_name(items)}" if items else "array"
        case {"type": kind}:
            return str(kind)
        case _:
            return "any"
