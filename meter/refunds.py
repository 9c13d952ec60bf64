"""Refunds of ours: the books freeze what the money stands for, a job asks Stripe, news settles."""

from typing import Any

import msgspec

from ledger import purchase_reads
from ledger.amounts import parse_amount
from ledger.load_purchases import PurchaseRef, objects
from ledger.requests import StartRefund
from meter import parse, stripe_calls
from meter.http import hot, readers
from meter.http.hot import JSON, REPLAYED
from meter.http.stripe_bodies import RefundBody
from meter.packs import STEP_WORDS, step_of
from meter.problems import ProblemError
from meter.route import Call, Reply
from meter.stripe_calls import StripeCall
from sql import queries
from sql.pool import Connection, transaction


class _Started(msgspec.Struct, frozen=True):
    """What we need of the books' answer."""

    amount: str
    purchase: msgspec.Raw


async def refund(call: Call, owner: PurchaseRef, wanted: RefundBody) -> Reply:
    """Start a refund: the freeze and the note for the job in one transaction. 202 purchase."""
    service, body = call.service, call.body
    assert body is not None
    async with transaction(service.pool, snapshot=True) as conn:
        found = await purchase_reads.purchases(conn, [owner], service.settings())
    if not found:
        raise ProblemError(404, "purchase_not_found", "No such purchase.")
    purchase, scales = found[0], service.settings().scales
    amount = credits_ = None
    if isinstance(wanted.amount, str):
        amount = parse.amount(wanted.amount, scales[purchase.currency], "/amount")
        if amount % step_of(scales[purchase.currency]):
            raise ProblemError(422, "invalid_value", STEP_WORDS, pointer="/amount")
    if isinstance(wanted.credits, str):
        credits_ = parse.amount(wanted.credits, scales[purchase.asset], "/credits")

    async def write() -> Reply:
        async with transaction(service.pool) as conn:
            number = await conn.fetchval(queries.stripe_refund_number)
            epoch = await conn.fetchval(queries.stripe_epoch)
            name = f"refund-{owner.customer_no}-{number}-{epoch}"
            place = owner.customer_no, owner.purchase_no
            waiting = await conn.fetchval(queries.stripe_refunds_waiting, *place)

            def read(_: Call, __: Any, ___: Any, common: dict[str, Any]) -> StartRefund:
                return StartRefund(
                    customer_no=owner.customer_no,
                    purchase_no=owner.purchase_no,
                    reference=name,
                    amount=amount,
                    credits=credits_,
                    waiting=waiting,
                    step=step_of(scales[purchase.currency]),
                    **common,
                )

            request = await readers.request_of(
                call, read, "refund_purchase", call.ids, body, call.idempotency_key
            )
            result = await service.decided_in(conn, request)
            if result.status >= 400:
                return hot.reply(result)  # committed: a refusal by the state is remembered
            started = msgspec.json.decode(result.body, type=_Started)
            if not result.is_replayed:
                money = parse_amount(started.amount, scales[purchase.currency])
                await _note(conn, owner, name, money, wanted.reason)
        headers = (JSON, REPLAYED) if result.is_replayed else (JSON,)
        return Reply(202, bytes(started.purchase), headers)

    return await service.retried(write)


async def _note(
    conn: Connection, owner: PurchaseRef, name: str, amount: int, reason: str | None
) -> None:
    intents = [one for one in await objects(conn, owner) if one.startswith("pi_")]
    if not intents:
        raise ProblemError(
            409,
            "nothing_refundable",
            "No payment is known of this purchase: nothing was paid (a coupon of 100 %), or it "
            "was paid outside of Stripe.",
        )
    params: dict[str, Any] = {"payment_intent": intents[-1], "amount": amount}
    if reason is not None:
        params["reason"] = reason
    await stripe_calls.note(
        conn,
        StripeCall(
            name=name,
            kind="refund",
            params=params,
            customer_no=owner.customer_no,
            purchase_no=owner.purchase_no,
            is_queued=True,
        ),
    )
