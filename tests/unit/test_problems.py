"""Problems as they leave: RFC 9457, whole for every code."""

from datetime import UTC, datetime

import msgspec
import pytest

from ledger.answers import Balance
from meter.codes import CODES
from meter.problems import (
    TYPE_BASE,
    FieldError,
    ProblemError,
    of_fault,
    problem_body,
    problem_headers,
)
from sql.errors import (
    DatabaseBusy,
    DatabaseFault,
    DatabaseUnavailable,
    OutcomeUnknown,
    TransactionConflict,
)

EVERY = [(status, code) for code, known in CODES.items() for status in known.statuses]


@pytest.mark.parametrize(("status", "code"), EVERY)
def test_problem_every_code_is_whole(status: int, code: str) -> None:
    body = msgspec.json.decode(problem_body(status, code, "Words.", request_id="req_1"))
    assert body == {
        "type": TYPE_BASE + code,
        "title": CODES[code].title,
        "status": status,
        "detail": "Words.",
        "code": code,
        "errors": [],
        "request_id": "req_1",
        "retryable": CODES[code].retryable,
    }
    headers = dict(problem_headers(status, code))
    assert headers[b"content-type"] == b"application/problem+json"
    assert (b"retry-after" in headers) is (status in (429, 503))
    assert (b"www-authenticate" in headers) is (status == 401)


def test_codes_statuses_and_retries_are_as_published() -> None:
    for code, known in CODES.items():
        for status in known.statuses:
            assert 400 <= status <= 599, code
            assert known.retryable is (status in (408, 429, 503)), code
        assert known.title[0].isupper(), code
        assert known.title[-1] != ".", code
        assert known.meaning.endswith("."), code
        assert known.advice.endswith("."), code
        assert "|" not in known.meaning + known.advice, code  # cells of a table


def test_problem_facts_are_members_and_never_replace_one() -> None:
    body = msgspec.json.decode(
        problem_body(
            402,
            "insufficient_credits",
            "Words.",
            request_id="req_1",
            facts={
                "required": "5",
                "balance": Balance(posted="3", held="0", available="3", owed="0"),
                "at": datetime(2026, 5, 4, tzinfo=UTC),
                "status": "paid",
                "code": "other",
            },
        )
    )
    assert body["required"] == "5"
    assert body["balance"] == {"posted": "3", "held": "0", "available": "3", "owed": "0"}
    assert body["at"] == "2026-05-04T00:00:00Z"
    assert (body["status"], body["code"]) == (402, "insufficient_credits")


def test_problem_pointer_and_errors() -> None:
    one = ProblemError(422, "invalid_amount", "amount is odd.", pointer="/amount")
    assert msgspec.json.decode(one.body("r"))["errors"] == [
        {"pointer": "/amount", "code": "invalid_amount", "detail": "amount is odd."}
    ]
    two = [FieldError("/a", "duplicate_member", "A."), FieldError("/b", "invalid_text", "B.")]
    many = ProblemError(422, "duplicate_member", "A.", errors=two)
    assert [e["pointer"] for e in msgspec.json.decode(many.body("r"))["errors"]] == ["/a", "/b"]


def test_problem_own_headers_win() -> None:
    error = ProblemError(429, "rate_limited", "Wait.", headers={"Retry-After": "7", "X-Y": "z"})
    headers = error.raw_headers()
    assert sorted(headers) == [
        (b"content-type", b"application/problem+json"),
        (b"retry-after", b"7"),
        (b"x-y", b"z"),
    ]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (DatabaseBusy("x"), "busy"),
        (TransactionConflict("x"), "busy"),
        (DatabaseUnavailable("x"), "database_unavailable"),
        (OutcomeUnknown("x"), "outcome_unknown"),
        (DatabaseFault("x"), "database_unavailable"),
    ],
)
def test_of_fault_is_503_and_says_what_was_written(fault: DatabaseFault, code: str) -> None:
    error = of_fault(fault)
    assert (error.status, error.code) == (503, code)
    assert ("Nothing was written" in error.detail) is (code != "outcome_unknown")
