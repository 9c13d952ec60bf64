"""Recognition of revenue, customer by customer: what is not done yet, in short transactions."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

import msgspec

from ledger.recognise import RecogniseAnswer
from ledger.requests import Recognise
from ledger.transact import transact
from meter.service import Service, render
from sql import queries
from sql.pool import Connection, transaction

CUSTOMERS_MAX: Final = 20
"""Locked by one transaction: with a few lots each, some ten milliseconds."""
ROUNDS_MAX: Final = 100
"""Of one customer: a thousand journals each."""

Opened = Callable[[], AbstractAsyncContextManager[Connection]]


async def recognise_all(
    service: Service, opened: Opened, stopping: asyncio.Event | None = None
) -> dict[str, int]:
    """Recognise every customer with journals that are not recognised yet; counts.

    `opened` gives the transactions. Killed half-way nothing is lost or done twice: what a customer
    is recognised to is written with its journals.
    """
    after = customers = journals = 0
    while stopping is None or not stopping.is_set():
        async with transaction(service.pool) as conn:
            rows = await conn.fetch(queries.customers_unrecognised, after, CUSTOMERS_MAX)
        if not rows:
            break
        waiting: list[int] = [row["customer_no"] for row in rows]
        after = waiting[-1]
        customers += len(waiting)
        for _ in range(ROUNDS_MAX):
            answers = await service.retried(lambda nos=waiting: _recognise(service, opened, nos))
            journals += sum(answer.journals for answer in answers.values())
            waiting = [no for no, answer in answers.items() if not answer.is_done]
            if not waiting or (stopping is not None and stopping.is_set()):
                break
    return {"customers": customers, "journals": journals}


async def _recognise(
    service: Service, opened: Opened, customer_nos: list[int]
) -> dict[int, RecogniseAnswer]:
    requests = [Recognise(customer_no=no, operation="recognise") for no in customer_nos]
    async with opened() as conn:
        results = await transact(
            conn, requests, service.settings(), render, wait=True, facts=service.facts
        )
    answers: dict[int, RecogniseAnswer] = {}
    for no, result in zip(customer_nos, results, strict=True):
        assert result is not None, "waited for the lock"
        # 503: time did more to this customer than one request may post; the next round goes on.
        answers[no] = (
            msgspec.json.decode(result.body, type=RecogniseAnswer)
            if result.status == 200
            else RecogniseAnswer(0, False)
        )
    return answers
