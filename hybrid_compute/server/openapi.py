"""OpenAPI: the description of a server by which other people's tools can call it, and try it out.

Owns the document, made of the JSON Schemas that the catalog has. Pure; no state.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from hybrid_compute.protocol import http as wire
from hybrid_compute.protocol.messages import MAX_KEY
from hybrid_compute.server.catalog import Entry

__all__ = ["document"]

_SCHEMAS = "#/components/schemas/"
_FAILURES = {
    "400": "The body is no call.",
    "401": "No valid token.",
    "403": "The token is not for this task, or a web page of another origin calls.",
    "404": "There is no such task.",
    "408": "The body did not come in time.",
    "409": "A call with this key has begun, was cut short, and does not run again.",
    "413": "The body, or the result, is too large.",
    "415": "The content type is not that of a call.",
    "421": "The server does not go by the name in Host.",
    "422": "The arguments are not those of the task.",
    "429": "Too many calls wait; Retry-After says when to come again.",
    "500": "The task has failed.",
    "503": "The server is closing.",
    "504": "The time of the task was up.",
}
_AT_ANY = ("401", "403", "421")  # what may be said before a path is looked at


def document(
    described: Iterable[tuple[Entry, dict[str, Any]]], *, open_: bool = False
) -> dict[str, Any]:
    """Return the document.

    Args:
        described: the tasks that the caller may use, each with what `Catalog.describe` says.
        open_: whether anybody may call, without a token.
    """
    schemas: dict[str, Any] = {
        "Failure": {
            "type": "object",
            "properties": {
                "error": {"type": "string"},
                "status": {"type": "integer"},
                "type": {"type": "string"},
                "path": {"type": "string"},
            },
            "required": ["error"],
        }
    }
    calls, results = [], []
    for number, (entry, words) in enumerate(described, 1):
        prefix = f"Task{number}"
        for name, schema in words.get("$defs", {}).items():
            schemas[f"{prefix}.{name}"] = _moved(schema, prefix)
        schemas[prefix] = _call(entry, words, prefix)
        calls.append({"$ref": _SCHEMAS + prefix})
        results.append(_moved(words["result"], prefix))
    return {
        "openapi": "3.1.0",
        "info": {"title": "hybrid-compute", "version": version("hybrid-compute")},
        "paths": _paths(calls, results),
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}] if open_ else [{"token": []}],
    }


def _call(entry: Entry, words: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Return the schema of the body that calls a task."""
    arguments = _moved(words["parameters"], prefix)
    properties: dict[str, Any] = {"task": {"const": words["name"]}}
    required = ["task"]
    if entry.takes_names:
        properties["kwargs"] = arguments
        if arguments["required"]:
            required.append("kwargs")
    else:
        least = len(arguments["required"])
        properties["args"] = {"type": "array", "minItems": least}
        if least:
            required.append("args")
    return {
        "title": words["name"],
        "description": words["doc"],
        "type": "object",
        "properties": properties,
        "required": required,
    }


def _moved(schema: Any, prefix: str) -> Any:
    """Return a schema whose references lead to where this document has what they mean."""
    if isinstance(schema, dict):
        moved = {name: _moved(each, prefix) for name, each in schema.items()}
        reference = moved.get("$ref")
        if isinstance(reference, str):
            moved["$ref"] = reference.replace("#/$defs/", f"{_SCHEMAS}{prefix}.")
        return moved
    return [_moved(each, prefix) for each in schema] if isinstance(schema, list) else schema


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {wire.JSON_TYPE: {"schema": schema}}


def _failures(*statuses: str) -> dict[str, Any]:
    content = _json({"$ref": f"{_SCHEMAS}Failure"})
    return {each: {"description": _FAILURES[each], "content": content} for each in statuses}


def _get(name: str, summary: str, schema: dict[str, Any], *failures: str) -> dict[str, Any]:
    good = {"description": "It is in the body.", "content": _json(schema)}
    return {
        "get": {
            "operationId": name,
            "summary": summary,
            "responses": {"200": good, **_failures(*failures)},
        }
    }


def _paths(calls: list[Any], results: list[Any]) -> dict[str, Any]:
    anything: dict[str, Any] = {"type": "object"}
    listed = {
        "type": "object",
        "properties": {"tasks": {"type": "array", "items": anything}},
        "required": ["tasks"],
    }
    health = _get("health", "Tell that the server is there", anything)
    health["get"]["security"] = [{}]
    return {
        "/compute": {
            "post": {
                "operationId": "compute",
                "summary": "Call a task",
                "description": (
                    "`args` may stand beside or instead of `kwargs`, as a list; a lone argument "
                    "may be called `input`."
                ),
                "parameters": [
                    {
                        "name": wire.KEY_HEADER,
                        "in": "header",
                        "description": "Calls with one key run once.",
                        "schema": {"type": "string", "pattern": f"^[!-~]{{1,{MAX_KEY}}}$"},
                    }
                ],
                "requestBody": {"required": True, "content": _json({"oneOf": calls})},
                "responses": {
                    "200": {
                        "description": "What the task has returned.",
                        "content": _json(
                            {
                                "type": "object",
                                "properties": {"result": {"anyOf": results}},
                                "required": ["result"],
                            }
                        ),
                    },
                    **_failures(*_FAILURES),
                },
            }
        },
        "/tasks": _get("tasks", "List the tasks that may be called", listed, *_AT_ANY),
        "/openapi.json": _get("openapi", "Describe all this", anything, *_AT_ANY),
        "/healthz": health,
    }
