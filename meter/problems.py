"""Errors as they leave: RFC 9457 problem details, one form for every status and every route."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from ledger.load import LOTS_MAX
from meter.codes import CODES, Code
from sql.errors import DatabaseBusy, DatabaseFault, OutcomeUnknown, TransactionConflict

__all__ = ["CODES", "Code", "FieldError", "ProblemError", "problem_body", "problem_headers"]

TYPE_BASE: Final = "https://drawdown.dev/problems/"
"""A problem's `type` is this and its code: a stable name, described in `problems.md`."""
RETRY_SECONDS: Final = 1
"""`Retry-After` where nothing better is known."""
CONTENT_TYPE: Final = (b"content-type", b"application/problem+json")
CHALLENGE: Final = (b"www-authenticate", b'Bearer realm="drawdown"')


class FieldError(Struct, frozen=True):
    """One mistake at one place of the body. `pointer` is a JSON Pointer (RFC 6901)."""

    pointer: str
    code: str
    detail: str


class ProblemError(Exception):
    """Ends a request with a problem. Nothing was written, unless the code says otherwise.

    `detail` says what is wrong and what to do. `pointer` is the place in the body; `errors`
    replaces it where there are several. `facts` become members of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        pointer: str | None = None,
        facts: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        errors: list[FieldError] | None = None,
    ) -> None:
        super().__init__(f"{status} {code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.pointer = pointer
        self.facts = facts
        self.headers = headers
        self.errors = errors

    def body(self, request_id: str) -> bytes:
        """The answer's body."""
        return problem_body(
            self.status,
            self.code,
            self.detail,
            request_id=request_id,
            pointer=self.pointer,
            facts=self.facts,
            errors=self.errors,
        )

    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        """The answer's headers, without its length."""
        headers = problem_headers(self.status, self.code)
        if self.headers:
            own = [(n.lower().encode(), v.encode()) for n, v in self.headers.items()]
            names = {name for name, _ in own}
            headers = [header for header in headers if header[0] not in names] + own
        return headers


_encode = msgspec.json.Encoder().encode


def problem_body(
    status: int,
    code: str,
    detail: str,
    *,
    request_id: str,
    pointer: str | None = None,
    facts: Mapping[str, Any] | None = None,
    errors: list[FieldError] | None = None,
) -> bytes:
    """Encode a problem. Facts may be Structs and times; they never replace a standard member."""
    known = CODES.get(code)
    if errors is None:
        errors = [] if pointer is None else [FieldError(pointer, code, detail)]
    body: dict[str, Any] = {
        "type": TYPE_BASE + code,
        # A code outside the list is a bug that the tests find; the answer is still whole.
        "title": code if known is None else known.title,
        "status": status,
        "detail": detail,
        "code": code,
        "errors": errors,
        "request_id": request_id,
        "retryable": status in (429, 503) if known is None else known.retryable,
    }
    if facts:
        for name, value in facts.items():
            body.setdefault(name, value)
    return _encode(body)


def problem_headers(status: int, code: str) -> list[tuple[bytes, bytes]]:
    """The headers that a problem needs, without its length."""
    headers: list[tuple[bytes, bytes]] = [CONTENT_TYPE]
    if status in (429, 503):
        headers.append((b"retry-after", b"%d" % RETRY_SECONDS))
    elif status == 401:
        # RFC 6750: `invalid_token` only where a key was sent.
        challenge = CHALLENGE
        if code == "key_revoked":
            challenge = (challenge[0], challenge[1] + b', error="invalid_token"')
        headers.append(challenge)
    return headers


_AGAIN: Final = "Nothing was written: send it again."
FAULTS: Final[Mapping[str, tuple[int, str]]] = {
    "busy": (503, f"The customer or the database was busy for too long. {_AGAIN}"),
    "queue_full": (503, f"Too many requests are waiting. {_AGAIN}"),
    "database_unavailable": (503, f"The database is not available. {_AGAIN}"),
    "outcome_unknown": (
        503,
        "The database went away while committing. It may have been applied: send it again with the "
        "same key, and the answer will tell.",
    ),
    "too_many_lots": (
        409,
        f"This customer has more than {LOTS_MAX:,} open lots, and this request would work on all "
        "of them. Void lots that are not needed, or draw less at a time.",
    ),
    "internal": (500, "Something went wrong on our side. Nothing was written for this request."),
}
"""Status and words of what stops a request before the books decide, wherever it is noticed."""


def fault(code: str) -> ProblemError:
    """A fault as the problem that ends a request."""
    status, detail = FAULTS[code]
    return ProblemError(status, code, detail)


def of_fault(error: DatabaseFault) -> ProblemError:
    """What a caller hears of a database fault."""
    if isinstance(error, OutcomeUnknown):
        return fault("outcome_unknown")
    if isinstance(error, DatabaseBusy | TransactionConflict):
        return fault("busy")
    return fault("database_unavailable")
