"""Making things at Stripe once: each has a name, and its idempotency key there follows from it.

A call is noted before it is sent, with its parameters, so that every attempt is the same request.
Stripe forgets keys after a day: later what was made is looked for, and only if there is nothing it
is sent again, under a new key.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

import msgspec
from asyncpg import Record
from msgspec import Struct

from meter.problems import ProblemError
from meter.stripe_port import FaultKind, Kind, Made, StripeFault, StripePort
from sql import queries
from sql.pool import Connection, Pool, transaction

SLACK: Final = timedelta(hours=1)
"""How far Stripe's clock and ours may differ."""
KEY_LIFE: Final = timedelta(hours=25)
"""How long after the first one a request under the same key may have reached Stripe, and more."""
RENEWALS_MAX: Final = 2
BUSY_WAITS: Final = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds until it is looked again whether a twin of the same request is done."""
STRIPE_AWAY: Final[Mapping[FaultKind, str]] = {
    "limited": "Stripe takes no more calls for a moment.",
    "unauthorized": "Stripe does not accept our key.",
    "unknown": "Stripe did not answer.",
}
Then = Callable[[Connection, Made], Awaitable[None]]
"""What else is written when a call is done, in the same transaction."""


class Host(Protocol):
    """What calls need of the service."""

    @property
    def pool(self) -> Pool: ...
    @property
    def stripe(self) -> StripePort | None: ...
    @property
    def installation_id(self) -> str: ...


class StripeCall(Struct, frozen=True, kw_only=True):
    """Something to be made at Stripe."""

    name: str
    kind: Kind
    params: dict[str, Any]
    customer_no: int | None = None
    purchase_no: int | None = None
    is_queued: bool = False
    request_key: str | None = None


async def note(conn: Connection, call: StripeCall) -> None:
    """Note a call. What was sent counts: other parameters only until then, or after a refusal."""
    await conn.execute(
        queries.stripe_call_add,
        call.name,
        call.kind,
        call.customer_no,
        call.purchase_no,
        msgspec.json.encode(call.params).decode(),
        call.is_queued,
        call.request_key,
    )


async def _nothing(_: Connection, __: Made) -> None:
    pass


async def send(host: Host, name: str, then: Then = _nothing, *, may_change: bool = True) -> Made:
    """Make what was noted under `name`, or tell what was made. Raises StripeFault.

    Any number may do this at once: they send the same request under the same key. What Stripe has
    refused goes under a new one, with what is noted next; unless it may not change: then whoever
    sends it again hears the same refusal.
    """
    stripe = host.stripe
    if stripe is None:
        raise StripeFault("unauthorized", "No key of Stripe is set.")
    waits, renewals = iter(BUSY_WAITS), 0
    while renewals <= RENEWALS_MAX:
        async with transaction(host.pool) as conn:
            row = await conn.fetchrow(queries.stripe_call_send, name)
        assert row is not None, "a call is noted before it is sent"
        if row["object_id"] is not None:
            return msgspec.json.decode(row["answer"], type=Made)
        try:
            made = await _made(host, stripe, row)
        except StripeFault as fault:
            if fault.kind == "busy" and (wait := next(waits, None)) is not None:
                await asyncio.sleep(wait)  # a twin of ours is about to be done
                continue
            if fault.is_final and may_change and not row["is_queued"]:
                await _renew(host, row)
            raise
        if made is not None:
            async with transaction(host.pool) as conn:
                text = msgspec.json.encode(made).decode()
                # Of those who send it at once, one says that it is done.
                done = await conn.fetchval(queries.stripe_call_done, name, made.object_id, text)
                if done is not None:
                    await then(conn, made)
            return made
        await _renew(host, row)
        renewals += 1
    raise StripeFault("unknown", "Stripe fails each time that it is asked.")


async def _made(host: Host, stripe: StripePort, row: Record) -> Made | None:
    """What a call makes, or has made under a key that is of no more use; None: that is nothing."""
    params, key = _request(host, row)
    if not row["is_old"]:
        try:
            return await stripe.make(row["kind"], params, key)
        except StripeFault as fault:
            if fault.kind != "unknown" or not fault.is_replayed:
                raise
    # Its key is forgotten, or answers with the same fault for a day.
    sent: datetime = row["first_sent_at"]
    return await stripe.find(row["kind"], row["name"], params, sent - SLACK, sent + KEY_LIFE)


async def _renew(host: Host, row: Record) -> None:
    """From here on under a new key, and with what is noted next."""
    async with transaction(host.pool) as conn:
        await conn.execute(queries.stripe_call_renew, row["name"], row["revision"])


def _request(host: Host, row: Record) -> tuple[dict[str, Any], str]:
    """The parameters of a call, with its name for whoever looks for it, and its key."""
    params: dict[str, Any] = msgspec.json.decode(row["params"])
    if row["kind"] != "action":
        params["metadata"] = {**params.get("metadata", {}), "drawdown_call": row["name"]}
    return params, f"dd_{host.installation_id}_{row['name']}_{row['revision']}"


def problem_of(fault: StripeFault) -> ProblemError:
    """A fault as whoever waits is told."""
    if fault.kind == "declined":
        facts = {"decline_code": fault.code}
        return ProblemError(402, "card_declined", str(fault), facts=facts)
    if fault.kind == "busy":
        return ProblemError(
            409, "request_in_progress", "The same is under way at Stripe: ask again in a moment."
        )
    if fault.is_final:
        return ProblemError(
            422,
            "stripe_refused",
            f"Stripe refuses this: {fault}",
            facts={"stripe_code": fault.code},
        )
    return ProblemError(
        503,
        "stripe_unavailable",
        f"{STRIPE_AWAY[fault.kind]} Nothing is lost: send the same request again.",
    )
