"""The words of metering, for tests: events of one customer, meters, and what they counted."""

from typing import Any

from tests.http import Api

SENT = {"source": "app", "type": "call", "subject": "acme"}


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
