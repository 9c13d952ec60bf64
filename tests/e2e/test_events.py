"""Usage through HTTP: events are recorded once, counted by every meter that reads them."""

import asyncio
import gzip
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from meter.service import Config
from sql.pool import Pool
from tests.http import Answer, Api, Running, serving, wire_time

SENT = {"source": "app", "type": "call", "subject": "acme"}


@pytest.fixture
async def running(pool: Pool) -> AsyncGenerator[Running]:
    async with serving(pool) as made:
        await made.api.customer("acme")
        yield made


@pytest.fixture
def api(running: Running) -> Api:
    return running.api


def event(id_: str, **members: Any) -> dict[str, Any]:
    """A usage event of `acme`; members of data beside those of the event."""
    return {"id": id_, **SENT, **members}


async def meter(api: Api, key: str, **members: Any) -> None:
    body = {"event_type": "call", "aggregation": "count", **members}
    answer = await api.put(f"/v1/meters/{key}", body)
    assert answer.status in (200, 201), answer


async def send(api: Api, *events: Any) -> list[tuple[int, str | None]]:
    """A batch: status and code of each of its events."""
    answer = await api.post("/v1/events", list(events), key=None)
    assert answer.status == 200, answer
    results = [(one["status"], one.get("code")) for one in answer.body["results"]]
    counted = [answer.body[name] for name in ("accepted", "duplicates", "rejected")]
    statuses = [status for status, _ in results]
    accepted, duplicates = statuses.count(202), statuses.count(200)
    assert counted == [accepted, duplicates, len(events) - accepted - duplicates]
    return results


async def usage(api: Api, key: str, **query: str) -> Any:
    glue = "&".join(f"{name}={value}" for name, value in {"customer_id": "acme", **query}.items())
    answer = await api.get(f"/v1/meters/{key}/usage?{glue}")
    assert answer.status == 200, answer
    return answer.body


async def test_event_sent_again_is_a_duplicate_and_counts_once(api: Api) -> None:
    await meter(api, "calls")
    first = await api.post("/v1/events", event("e1"), key=None)
    again = await api.post("/v1/events", event("e1"), key=None)
    other = await api.post("/v1/events", event("e1", data={"x": 1}), key=None)
    assert (first.status, first.body["duplicate"]) == (202, False), first
    assert (again.status, again.body["duplicate"]) == (200, True)
    assert (other.status, other.code) == (409, "event_conflict")
    found = await usage(api, "calls")
    assert (found["value"], found["events"]) == ("1", 1)
