"""The OpenAPI 3.1 document, made from the routes and the types of their bodies and answers."""

import re
from collections.abc import Sequence
from typing import Any, Final, cast

import msgspec
from msgspec import Struct
from msgspec.structs import fields

from meter.problems import CODES
from meter.route import Route
from meter.scopes import SCOPES

VERSION: Final = "0.1.0"
PROBLEM: Final = "application/problem+json"


class FieldErrorShape(Struct, frozen=True):
    pointer: str
    code: str
    detail: str


class ProblemShape(Struct, frozen=True):
    """RFC 9457 problem details. A code may add facts as further members."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldErrorShape]
    request_id: str
    retryable: bool


# What any route with a scope may answer besides its own codes.
_ALWAYS: Final = (
    "unauthenticated",
    "key_revoked",
    "scope_missing",
    "rate_limited",
    "internal",
    "busy",
    "database_unavailable",
)
_WITH_BODY: Final = (
    "malformed",
    "body_too_large",
    "request_timeout",
    "unsupported_media_type",
    "invalid_value",
    "unknown_member",
    "missing_member",
    "duplicate_member",
    "invalid_text",
    "invalid_number",
    "invalid_depth",
)
_WITH_KEY: Final = (
    "idempotency_key_missing",
    "invalid_idempotency_key",
    "idempotency_key_reused",
    "queue_full",
    "outcome_unknown",
)


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The whole description, ready to be encoded."""
    types = [ProblemShape]
    for route in routes:
        types += [kind for kind in (route.body, *answers_of(route)) if kind is not None]
    unique = list({id(kind): kind for kind in types}.values())
    schemas, components = msgspec.json.schema_components(
        unique, ref_template="#/components/schemas/{name}"
    )
    schema_of = {id(kind): schema for kind, schema in zip(unique, schemas, strict=True)}
    components["Problem"] = components.pop("ProblemShape")
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "drawdown",
            "version": VERSION,
            "summary": "Usage metering and prepaid credits in a double-entry ledger",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key (`ddk_…`) or a customer's token (`ddt_…`). Scopes: "
                    + ", ".join(SCOPES),
                }
            },
        },
    }


def answers_of(route: Route) -> list[Any]:
    """The types of a route's answers, each of those that one status may have."""
    found: list[Any] = []
    for kind in route.answers.values():
        found += kind if isinstance(kind, tuple) else (kind,)
    return found


def codes_of(route: Route) -> list[str]:
    """Every problem code that a route may answer."""
    codes = list(route.errors)
    if route.scope is not None:
        codes += _ALWAYS
    else:
        codes += ["internal", "database_unavailable"]
    if route.body is not None:
        codes += _WITH_BODY
    if route.needs_key or route.takes_key or route.operation == "batch":
        codes += _WITH_KEY
    if route.query:
        codes += ["invalid_query", "invalid_cursor"]
        by_name = {
            "customer_id": "invalid_customer_id",
            "asset": "invalid_asset",
            "at": "invalid_timestamp",
            "from": "invalid_timestamp",
            "to": "invalid_timestamp",
        }
        codes += [by_name[query.name] for query in route.query if query.name in by_name]
    codes += ["malformed", "invalid_query", "invalid_text"]
    codes += _of_members(route)
    return list(dict.fromkeys(codes))


def _of_members(route: Route) -> list[str]:
    """The codes that the members of a body, or the ids of a path, can be wrong with."""
    codes: list[str] = []
    fields = getattr(route.body, "__struct_fields__", ())
    by_member = {
        "customer_id": "invalid_customer_id",
        "amount": "invalid_amount",
        "scale": "invalid_asset",
        "add": "invalid_amount",
        "overage": "invalid_overage",
        "asset": "invalid_asset",
        "minimum": "invalid_minimum",
        "effective_at": "invalid_effective_at",
        "expires_at": "invalid_expires_at",
        "to": "invalid_to",
        "metadata": "invalid_metadata",
        "money": "invalid_money",
        "cost": "invalid_cost",
        "currency": "invalid_currency",
        "time_zone": "invalid_time_zone",
        "scopes": "invalid_scopes",
    }
    codes += [code for member, code in by_member.items() if member in fields]
    if {"effective_at", "expires_at", "to"} & set(fields):
        codes.append("invalid_timestamp")
    if {"invalid_amount", "invalid_overage"} & set(codes):
        codes.append("invalid_amount")
        codes.append("amount_out_of_range")
    if "{customer_id}" in route.path:
        codes.append("invalid_customer_id")
    return codes


def _operation(route: Route, schema_of: dict[int, dict[str, Any]]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.summary,
        "description": (route.handler.__doc__ or route.summary).strip(),
        "tags": [route.tag],
        "parameters": _parameters(route),
        "responses": _responses(route, schema_of),
        "x-scope": route.scope,
    }
    if route.scope is None:
        described["security"] = []
    if route.body is not None:
        examples: dict[str, Any] = {}
        if route.example is not None:
            examples["examples"] = {"working": {"value": route.example}}
        described["requestBody"] = {
            # A body of which every member may be left out may be left out itself.
            "required": any(member.required for member in fields(route.body)),
            "content": {
                kind: {"schema": _body_schema(kind, schema_of[id(route.body)], route), **examples}
                for kind in ("application/json", *route.media)
            },
        }
    return described


def _body_schema(kind: str, single: dict[str, Any], route: Route) -> dict[str, Any]:
    """The schema of a body; with further media types, some of them are lists of such bodies."""
    many: dict[str, Any] = {
        "type": "array",
        "items": {},
        "description": "Of such bodies, each judged alone.",
    }
    if not route.media:
        return single
    if kind == "application/json":
        return {"anyOf": [single, many]}
    return many if "batch" in kind else single


def _parameters(route: Route) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", route.path)
    ]
    for query in route.query:
        parameter = {
            "name": query.name,
            "in": "query",
            "required": query.is_required,
            "description": query.meaning,
            "schema": query.schema,
        }
        if query.schema.get("type") == "object":
            parameter |= {"style": "deepObject", "explode": True}
        found.append(parameter)
    if route.needs_key or route.takes_key:
        found.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": route.needs_key,
                "description": "Names this request for its retries: 1-255 printable ASCII "
                "characters. The same key and body give the first answer again, for ever.",
                "schema": {"type": "string", "minLength": 1, "maxLength": 255},
            }
        )
    return found


def _responses(route: Route, schema_of: dict[int, dict[str, Any]]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, kind in route.answers.items():
        described: dict[str, Any] = {"description": route.summary}
        if isinstance(kind, tuple):
            schema = {"anyOf": [schema_of[id(one)] for one in cast("tuple[Any, ...]", kind)]}
            described["content"] = {"application/json": {"schema": schema}}
        elif kind is not None:
            described["content"] = {"application/json": {"schema": schema_of[id(kind)]}}
        elif route.path == "/docs":
            described["content"] = {"text/html": {"schema": {"type": "string"}}}
        elif route.path == "/metrics":
            described["content"] = {"text/plain": {"schema": {"type": "string"}}}
        elif route.produces:
            described["content"] = {
                media: {"schema": {"type": "object"} if media == "application/json" else {}}
                for media in route.produces
            }
        else:
            described["content"] = {"application/json": {"schema": {"type": "object"}}}
        responses[str(status)] = described
    by_status: dict[int, list[str]] = {}
    for code in codes_of(route):
        for status in CODES[code].statuses:
            by_status.setdefault(status, []).append(code)
    for status, codes in sorted(by_status.items()):
        responses[str(status)] = {
            "description": ", ".join(f"`{code}`" for code in sorted(codes)),
            "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    return responses
