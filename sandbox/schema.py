"""Stripe's description of itself, reduced to what this stand-in answers (`data/stripe_api.json`).

It says which parameters a request may have, what an answer looks like, and what can be expanded.
"""

import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from importlib.resources import files
from typing import Any, Final

import msgspec

from sandbox.errors import StripeError, invalid
from sandbox.shapes import Obj, as_list, as_obj

METADATA_KEYS_MAX: Final = 50
METADATA_KEY_MAX: Final = 40
METADATA_VALUE_MAX: Final = 500
STRING_MAX: Final = 5_000

_API: Final[Obj] = msgspec.json.decode(
    files("sandbox").joinpath("data/stripe_api.json").read_bytes()
)
VERSION: Final[str] = _API["version"]
OPERATIONS: Final[dict[str, Obj]] = _API["operations"]
"""Parameters and results by `METHOD /path/{template}`."""
SCHEMAS: Final[dict[str, Obj]] = _API["schemas"]
SNAPSHOT_EVENTS: Final = frozenset[str](_API["event_types"]["snapshot"])
THIN_EVENTS: Final = frozenset[str](_API["event_types"]["thin"])

_INTEGER: Final = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_NO_TYPES: Final = ("/v1/payment_intents", "/v1/setup_intents", "/v1/checkout/sessions")
_OLD_UI_MODES: Final = {"hosted": "hosted_page", "embedded": "embedded_page", "custom": "elements"}


def of(kind: str) -> Obj:
    """The schema of an object by the name in its `object` member."""
    return SCHEMAS[kind.replace(".", "__")]


def resolve(node: Obj) -> Obj:
    """The node itself, or what it refers to."""
    return SCHEMAS[node["$ref"]] if "$ref" in node else node


def is_list(node: Obj) -> bool:
    return bool(node.get("x-list-of"))


def blank(kind: str) -> Obj:
    """An object with every member that Stripe would send empty, in Stripe's order.

    Lists that only come when they are expanded are left out.
    """
    made: Obj = {}
    for name, node in of(kind)["properties"].items():
        if name == "deleted" or (is_list(node) and node.get("nullable")):
            continue
        if node.get("nullable"):
            made[name] = None
        elif node.get("type") == "array":
            made[name] = []
        elif "additionalProperties" in node:
            made[name] = {}
        else:
            made[name] = False if node.get("type") == "boolean" else None
    return made


# Requests


def read_params(operation: str, raw: Obj) -> Obj:
    """The parameters of a request, checked and typed. Raises StripeError 400."""
    name = OPERATIONS[operation].get("params")
    if "payment_method_types" in raw and operation.partition(" ")[2].startswith(_NO_TYPES):
        raise invalid(
            "The payment_method_types parameter is no longer supported. Use "
            "allowed_payment_method_types or dynamic payment methods.",
            param="payment_method_types",
            code="payment_method_types_no_longer_supported",
        )
    if (mode := raw.get("ui_mode")) in _OLD_UI_MODES:
        raise invalid(
            f"Invalid ui_mode: {mode} is now {_OLD_UI_MODES[mode]}.",
            param="ui_mode",
            code="parameter_invalid_enum",
        )
    return {} if name is None else _read(SCHEMAS[name], raw, "")


def _read(node: Obj, raw: Any, path: str) -> Any:
    node = resolve(node)
    if "anyOf" in node:
        return _read_any(node["anyOf"], raw, path)
    kind = node.get("type")
    if kind == "object":
        return _read_object(node, raw, path)
    if kind == "array":
        if (rows := as_list(raw)) is None:
            raise invalid(f"Invalid array: {path}", param=path)
        return [_read(node["items"], one, f"{path}[{n}]") for n, one in enumerate(rows)]
    return _read_scalar(node, raw, path)


def _read_any(options: list[Obj], raw: Any, path: str) -> Any:
    """By the form of what was sent: a map, a list, the empty string, or the first that fits."""
    choices = [resolve(option) for option in options]
    if isinstance(raw, dict | list):
        shape = "object" if isinstance(raw, dict) else "array"
        fitting = [one for one in choices if one.get("type") == shape]
        if not fitting:
            raise invalid(f"Invalid {path}", param=path)
        return _read(fitting[0], raw, path)
    clearable = any(one.get("enum") == [""] for one in choices)
    if raw == "" and clearable:
        return ""
    scalars = [
        one
        for one in choices
        if one.get("type") not in ("object", "array") and one.get("enum") != [""]
    ]
    named = [one for one in scalars if "enum" in one]
    if named:  # a string beside an enumeration is only its openness
        scalars = [one for one in scalars if one.get("type") != "string" or "enum" in one]
    problem: StripeError | None = None
    for one in sorted(scalars, key=lambda option: option.get("type") == "string"):
        try:
            return _read_scalar(one, raw, path)
        except StripeError as error:
            problem = error
    raise problem or invalid(f"Invalid {path}", param=path)


def _read_object(node: Obj, raw: Any, path: str) -> Obj:
    if (given := as_obj(raw)) is None:
        raise invalid(f"Invalid object: {path or 'the body'}", param=path or None)
    if "properties" not in node:
        return _read_map(node, given, path)
    properties: Obj = node["properties"]
    for name in given:
        if name not in properties:
            full = f"{path}[{name}]" if path else name
            message = f"Received unknown parameter: {full}"
            raise invalid(message, param=full, code="parameter_unknown")
    for name in node.get("required", []):
        if name not in given:
            full = f"{path}[{name}]" if path else name
            raise invalid(f"Missing required param: {full}.", param=full, code="parameter_missing")
    return {
        name: _read(properties[name], value, f"{path}[{name}]" if path else name)
        for name, value in given.items()
    }


def _read_map(node: Obj, given: Obj, path: str) -> Obj:
    inner: Obj = node.get("additionalProperties") or {}
    if path.rpartition("[")[2].rstrip("]") == "metadata":
        _check_metadata(given, path)
        return {name: str(value) for name, value in given.items()}
    if not inner:
        return given
    return {name: _read(inner, value, f"{path}[{name}]") for name, value in given.items()}


def _check_metadata(given: Obj, path: str) -> None:
    if len(given) > METADATA_KEYS_MAX:
        raise invalid(f"You can have up to {METADATA_KEYS_MAX} metadata keys.", param=path)
    for name, value in given.items():
        if len(name) > METADATA_KEY_MAX or "[" in name or "]" in name:
            raise invalid(f"Metadata keys have up to {METADATA_KEY_MAX} characters.", param=path)
        if not isinstance(value, str):
            raise invalid("Metadata values are strings.", param=f"{path}[{name}]")
        if len(value) > METADATA_VALUE_MAX:
            message = f"Metadata values have up to {METADATA_VALUE_MAX} characters."
            raise invalid(message, param=f"{path}[{name}]")


def _read_scalar(node: Obj, raw: Any, path: str) -> Any:
    kind = node.get("type")
    if kind is None:
        return raw
    if kind == "boolean":
        if raw in (True, "true"):
            return True
        if raw in (False, "false"):
            return False
        raise invalid(f"Invalid boolean: {raw}", param=path, code="parameter_invalid_boolean")
    if kind == "integer":
        text = str(raw)
        if isinstance(raw, bool) or not _INTEGER.fullmatch(text):
            message = f"Invalid integer: {raw}"
            raise invalid(message, param=path, code="parameter_invalid_integer")
        return int(text)
    if kind == "number":
        return float(_decimal(raw, path))
    if not isinstance(raw, str):
        raise invalid(f"Invalid string: {raw}", param=path, code="parameter_invalid_string")
    return _read_string(node, raw, path)


def _read_string(node: Obj, raw: str, path: str) -> str:
    if raw == "" and not node.get("x-clearable") and "" not in node.get("enum", []):
        raise invalid(
            f"You passed an empty string for '{path}'. We assume empty values are an attempt to "
            f"unset a parameter; however '{path}' cannot be unset. You should remove '{path}' "
            "from your request or supply a non-empty value.",
            param=path,
            code="parameter_invalid_empty",
        )
    if "enum" in node and raw not in node["enum"]:
        words = ", ".join(map(str, node["enum"][:20]))
        name = path.rpartition("[")[2].rstrip("]")
        message = f"Invalid {name}: must be one of {words}"
        raise invalid(message, param=path, code="parameter_invalid_enum")
    if node.get("format") == "decimal" and raw:
        _decimal(raw, path)
    if len(raw) > STRING_MAX:
        message = f"Invalid string: {path} is longer than {STRING_MAX} characters"
        raise invalid(message, param=path, code="parameter_invalid_string")
    return raw


def _decimal(raw: Any, path: str) -> Decimal:
    try:
        number = Decimal(str(raw))
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite():
        raise invalid(f"Invalid decimal: {raw}", param=path, code="parameter_invalid_decimal")
    return number


# Answers


def differences(node: Obj, value: Any, path: str = "") -> Iterator[str]:
    """How a value differs from what the description promises."""
    nullable = bool(node.get("nullable"))
    node = resolve(node)
    if value is None:
        if not nullable and node.get("enum") != [None]:
            yield f"{path}: null"
    elif "anyOf" in node:
        found = [[*differences(option, value, path)] for option in node["anyOf"]]
        if all(found):
            yield from min(found, key=len)
    elif "x-outside" in node:
        if not isinstance(value, dict):
            yield f"{path}: no object"
    elif node.get("type") == "object":
        yield from _object_differences(node, value, path)
    elif node.get("type") == "array":
        if (rows := as_list(value)) is None:
            yield f"{path}: no list"
        for number, one in enumerate(rows or []):
            yield from differences(node["items"], one, f"{path}[{number}]")
    elif not _is_scalar(node, value):
        yield f"{path}: {value!r} is no {node.get('enum') or node.get('type')}"


def _object_differences(node: Obj, value: Any, path: str) -> Iterator[str]:
    if (given := as_obj(value)) is None:
        yield f"{path}: no object"
        return
    if "properties" not in node:
        inner: Obj | None = node.get("additionalProperties")
        for name, one in given.items() if inner else ():
            yield from differences(inner or {}, one, f"{path}.{name}")
        return
    for name, one in given.items():
        if name not in node["properties"]:
            yield f"{path}.{name}: unknown"
        else:
            yield from differences(node["properties"][name], one, f"{path}.{name}")
    if given.get("deleted") is not True:
        for name in node.get("required", []):
            if name not in given:
                yield f"{path}.{name}: missing"


def _is_scalar(node: Obj, value: Any) -> bool:
    if "enum" in node and value not in node["enum"]:
        return False
    kind = node.get("type")
    if kind is None:
        return True
    if kind == "boolean" or isinstance(value, bool):
        return kind == "boolean" and isinstance(value, bool)
    types: dict[str, Any] = {"integer": int, "number": int | float, "string": str}
    return isinstance(value, types[kind])
