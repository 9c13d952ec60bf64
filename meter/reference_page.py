"""`/docs`: the OpenAPI document as one plain page. It asks nothing of any other server."""

import json
from html import escape
from typing import Any, Final

_STYLE: Final = """
:root{color-scheme:light dark;--line:#8884}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
code,pre{font:14px/1.45 ui-monospace,monospace}
pre{padding:.75rem;border:1px solid var(--line);border-radius:6px;overflow:auto}
h2{margin-top:3rem;border-bottom:1px solid var(--line)}
h3{margin-top:2rem}
.m{display:inline-block;min-width:4rem;font-weight:700}
table{border-collapse:collapse;width:100%}
td,th{text-align:left;vertical-align:top;padding:.25rem .75rem .25rem 0;
border-top:1px solid var(--line)}
nav{columns:2}
a{color:inherit}
"""


def page(document: dict[str, Any]) -> bytes:
    """The whole page as UTF-8 HTML, without scripts."""
    tags: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            tags.setdefault(operation["tags"][0], []).append((path, method, operation))
    schemas = document["components"]["schemas"]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'><title>drawdown: API</title>",
        f"<style>{_STYLE}</style><h1>drawdown</h1>",
        f"<p>{escape(document['info']['summary'])}. The same as data: "
        "<a href=/openapi.json>/openapi.json</a>.</p><nav>",
    ]
    for tag, operations in tags.items():
        links = "".join(
            f"<br><a href='#{op['operationId']}'><code>{method.upper()} {escape(path)}</code></a>"
            for path, method, op in operations
        )
        parts.append(f"<p><b>{escape(tag)}</b>{links}</p>")
    parts.append("</nav>")
    for tag, operations in tags.items():
        parts.append(f"<h2>{escape(tag)}</h2>")
        parts += [_operation(path, method, op) for path, method, op in operations]
    parts.append("<h2>Types</h2>")
    parts += [_schema(name, schema) for name, schema in sorted(schemas.items())]
    return "".join(parts).encode()


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    scope = operation["x-scope"]
    text = (
        f"<h3 id='{operation['operationId']}'><span class=m>{method.upper()}</span>"
        f"<code>{escape(path)}</code></h3><p>{escape(operation['description'])}</p>"
        f"<p>Scope: {'none' if scope is None else f'<code>{scope}</code>'}</p>"
    )
    if operation["parameters"]:
        rows = "".join(
            f"<tr><td><code>{escape(p['name'])}</code><td>{p['in']}"
            f"{', required' if p['required'] else ''}<td>{escape(p.get('description', ''))}"
            for p in operation["parameters"]
        )
        text += f"<table>{rows}</table>"
    if "requestBody" in operation:
        content = operation["requestBody"]["content"]["application/json"]
        text += f"<p>Body: {_type(content['schema'])}</p>"
        for example in content.get("examples", {}).values():
            text += f"<pre>{escape(json.dumps(example['value'], indent=2))}</pre>"
    rows = ""
    for status, response in operation["responses"].items():
        contents: list[dict[str, Any]] = list(response.get("content", {}).values())
        kind: dict[str, Any] = contents[0].get("schema", {}) if contents else {}
        words = escape(response["description"].replace("`", ""))
        rows += f"<tr><td>{status}<td>{words}<td>{_type(kind)}"
    return text + f"<table>{rows}</table>"


def _schema(name: str, schema: dict[str, Any]) -> str:
    rows = ""
    required = schema.get("required", [])
    for member, kind in schema.get("properties", {}).items():
        words = escape(str(kind.get("description", "")))
        must = "required" if member in required else ""
        rows += f"<tr><td><code>{escape(member)}</code><td>{_type(kind)}<td>{must}<td>{words}"
    about = escape(schema.get("description", ""))
    return f"<h3 id='type-{escape(name)}'>{escape(name)}</h3><p>{about}</p><table>{rows}</table>"


def _type(kind: dict[str, Any]) -> str:
    """A type in words, linked where it has a name."""
    if "$ref" in kind:
        name = kind["$ref"].rsplit("/", 1)[1]
        return f"<a href='#type-{escape(name)}'>{escape(name)}</a>"
    if "anyOf" in kind:
        return " or ".join(_type(one) for one in kind["anyOf"])
    if "enum" in kind:
        return " | ".join(f"<code>{escape(json.dumps(value))}</code>" for value in kind["enum"])
    if kind.get("type") == "array":
        return f"list of {_type(kind.get('items', {}))}"
    words = kind.get("type", "any")
    return escape(words if isinstance(words, str) else " or ".join(words))
