"""The reference page of the problem codes, written from their list.

Renew it with `.venv/bin/python -m drawdown.problems_page >docs/reference/problems.md`.
"""

import click

from meter.codes import CODES
from meter.problems import TYPE_BASE

INTRODUCTION = f"""\
# Problems

Every error is `application/problem+json` (RFC 9457) with these members:

| member | is |
|---|---|
| `type` | `{TYPE_BASE}` and the code: a stable name |
| `title` | the code in words, always the same |
| `status` | the HTTP status |
| `detail` | what was wrong this time, and what to do |
| `code` | the word to program against, one of those below |
| `errors` | places in the body: `pointer` (a JSON Pointer), `code`, `detail`; may be empty |
| `request_id` | also in the header `X-Request-Id`, and in the log |
| `retryable` | whether the same request, sent again unchanged, may succeed |

Some codes add members, such as `required`, `available` and `shortfall`. Every 429 and 503 has
`Retry-After`. Codes are never renamed; new ones may come.

This page is written from the code.

| code | status | meaning | what to do | retryable |
|---|---|---|---|---|
"""


def problems_page() -> str:
    """The whole page as Markdown."""
    rows = [
        f'| <a id="{name}"></a>`{name}` | {", ".join(map(str, code.statuses))} '
        f"| {code.meaning} | {code.advice} | {'yes' if code.retryable else 'no'} |"
        for name, code in CODES.items()
    ]
    return INTRODUCTION + "\n".join(rows) + "\n"


if __name__ == "__main__":
    click.echo(problems_page(), nl=False)
