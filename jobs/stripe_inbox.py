"""The job `stripe_inbox`: applies news of Stripe's objects. Each is fetched; what it is now counts.

A worker takes an object for some seconds, fetches it without a transaction, and applies it in one
that checks that nobody has taken the object since. What came in meanwhile leaves it marked.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Final

import structlog
from asyncpg import Record

from jobs.runner import Counts, Run, together
from jobs.stripe_apply import Foreign, Twin, apply_payment
from jobs.stripe_plans import apply_invoice, apply_subscription
from ledger.load_purchases import ForeignPurchase
from meter import checkout, report_pieces, stripe_news
from meter.plan_lines import MissingPeriod
from meter.problems import ProblemError
from meter.service import Service
from meter.stripe_port import StripeFault, StripePort
from sql import queries
from sql.errors import DatabaseFault
from sql.pool import Connection, transaction

TOGETHER_MAX: Final = 8
"""Objects at once: Stripe lets 25 calls a second pass in a sandbox, and each takes up to five."""
ROUNDS_MAX: Final = 200
FETCH_SECONDS_MAX: Final = 90.0
"""For all calls of one object."""
LEASE: Final = timedelta(seconds=120)
"""Longer than fetching and applying take."""
ATTEMPTS_MAX: Final = 12
"""Then a person has to look: some hours have passed."""
INVOICED_WITHIN: Final = timedelta(days=4)
"""An invoice may be a draft, or unpaid, for that long before it is paid."""
WAIT_FIRST: Final = timedelta(seconds=5)
WAIT_MAX: Final = timedelta(hours=1)

KNOWN: Final = (StripeFault, ProblemError, ForeignPurchase, Twin, DatabaseFault, MissingPeriod)
"""What may go wrong with one object; anything else is a fault of ours."""

log = structlog.get_logger()


class Superseded(Exception):
    """Somebody else has taken the object meanwhile: nothing was applied."""


async def stripe_inbox(run: Run) -> Counts:
    """Apply in bounded rounds until there is no news that can be applied now."""
    counts = {"applied": 0, "foreign": 0, "failed": 0, "parked": 0}
    stripe = run.service.stripe
    for _ in range(ROUNDS_MAX if stripe is not None else 0):
        if run.stopping.is_set():
            break
        async with run.transaction() as conn:
            taken = await conn.fetch(queries.stripe_take, TOGETHER_MAX, LEASE)
        if not taken:
            break
        assert stripe is not None
        fates = await together(_settle(run.service, stripe, one) for one in taken)
        for fate in fates:
            counts[fate] += 1
    return counts


async def _settle(service: Service, stripe: StripePort, taken: Record) -> str:
    """Apply one object, or note why not. What became of it."""
    try:
        return await _apply(service, stripe, taken)
    except Superseded:
        return "failed"
    except KNOWN as error:
        is_final = not isinstance(error, DatabaseFault) and _is_final(error)
        words, known = str(error), True
    except Exception as error:
        is_final, words, known = False, f"{type(error).__name__}: {error}", False
    is_parked = is_final or taken["attempts"] + 1 >= ATTEMPTS_MAX
    log.warning(
        "stripe_news_not_applied",
        object_id=taken["object_id"],
        error=words,
        parked=is_parked,
        exc_info=not known,
    )
    wait = min(WAIT_MAX, WAIT_FIRST * 2 ** taken["attempts"])
    async with transaction(service.pool) as conn:
        await conn.execute(
            queries.stripe_not_applied,
            taken["object_id"],
            taken["fence"],
            words[:500],
            wait,
            is_parked,
            taken["marked"],
        )
    return "parked" if is_parked else "failed"


def _is_final(error: Exception) -> bool:
    """Whether trying again would end the same way."""
    if isinstance(error, StripeFault):
        return error.is_final
    if isinstance(error, ProblemError):
        return error.status < 500
    return isinstance(error, (ForeignPurchase, Twin))


async def _apply(service: Service, stripe: StripePort, taken: Record) -> str:
    """Fetch an object, then apply it in one transaction. What became of it."""
    try:
        async with asyncio.timeout(FETCH_SECONDS_MAX):
            change = await _fetch(service, stripe, taken["object_id"], taken["kind"])
    except TimeoutError:
        raise StripeFault("unknown", "Stripe took too long.") from None

    async def write() -> str:
        async with transaction(service.pool) as conn:
            await _hold(conn, taken)
            fate = "applied"
            try:
                await change(conn)
            except Foreign as foreign:
                log.info("stripe_object_is_foreign", object_id=taken["object_id"], why=str(foreign))
                fate = "foreign"
            await _applied(conn, taken)
            return fate

    return await service.retried(write)


Change = Callable[[Connection], Awaitable[None]]
"""What an object makes of our books, in the caller's transaction. May raise Foreign, Twin."""


async def _fetch(service: Service, stripe: StripePort, object_id: str, kind: str) -> Change:
    """What an object is now, and what follows of that. Raises StripeFault."""
    if kind == "customer":
        if await stripe.is_deleted(object_id):
            return partial(_unlink, stripe_customer_id=object_id)
        return await _fetch_card(service, stripe, object_id)
    if kind == "subscription":
        return await _fetch_subscription(service, stripe, object_id)
    if kind == "invoice":
        invoice = await stripe.invoice(object_id)
        if invoice.subscription_id is None or invoice.status != "paid":
            return _nothing
        state = await stripe.subscription(invoice.subscription_id)
        return partial(apply_invoice, service, invoice=invoice, state=state)
    if kind == "meter_report":
        return partial(_reject, told=await stripe.rejected_usage(object_id))
    payment = await stripe.payment("session" if kind == "session" else "intent", object_id)
    if kind == "intent" and checkout.owner_of(payment.marks, service.installation_id) is None:
        # It may have paid an invoice, and what became of it since is news of that.
        invoice_id = await stripe.invoice_of(object_id)
        if invoice_id is not None:
            return partial(stripe_news.mark, object_id=invoice_id, kind="invoice")
    return partial(apply_payment, service, payment=payment)


async def _fetch_subscription(service: Service, stripe: StripePort, object_id: str) -> Change:
    """A subscription; where it is new or has begun another period, with the invoices since.

    So an invoice is found also when its own news was lost for longer than Stripe keeps it.
    """
    state = await stripe.subscription(object_id)
    async with transaction(service.pool) as conn:
        known = await conn.fetchrow(queries.subscription_known, state.customer_id, object_id)
    invoices: list[str] = []
    if known is None or any(one.period_end > known["period_end"] for one in state.items):
        since = state.started_at if known is None else known["fetched_at"] - INVOICED_WITHIN
        invoices = await stripe.invoices_since(object_id, since)

    async def change(conn: Connection) -> None:
        # Marks first, as whoever applies one of these holds its mark when it locks the customer.
        for invoice_id in sorted(invoices):
            await stripe_news.mark(conn, invoice_id, "invoice")
        await apply_subscription(service, conn, state=state)

    return change


async def _fetch_card(service: Service, stripe: StripePort, object_id: str) -> Change:
    """Which card would be charged, if something stands in the way of automatic top-up."""
    async with transaction(service.pool) as conn:
        known = await conn.fetchrow(queries.top_up_troubled, object_id)
    if known is None:
        return _nothing
    card = next(iter(await stripe.cards(object_id)), None)
    if card is None:
        return _nothing
    return partial(_rearm, customer_no=known["customer_no"], fingerprint=card.fingerprint)


async def _rearm(conn: Connection, *, customer_no: int, fingerprint: str) -> None:
    """What another card was declined for stands in the way no more."""
    await conn.execute(queries.top_up_has_card, customer_no, fingerprint)


async def _reject(conn: Connection, *, told: Mapping[str, str]) -> None:
    """Usage that was told, and that Stripe does not count."""
    for identifier, code in told.items():
        place = report_pieces.place_of(identifier)
        if place is None or await conn.fetchval(queries.report_row_reject, *place, code) is None:
            log.warning("rejected_usage_is_foreign", identifier=identifier, code=code)
        else:
            log.error("usage_rejected", identifier=identifier, code=code)


async def _nothing(_: Connection) -> None:
    """There is nothing in it for our books."""


async def _hold(conn: Connection, taken: Record) -> None:
    """Keep the object ours until the transaction ends. Raises Superseded."""
    if await conn.fetchval(queries.stripe_hold, taken["object_id"], taken["fence"]) is None:
        raise Superseded


async def _applied(conn: Connection, taken: Record) -> None:
    await conn.execute(queries.stripe_applied, taken["object_id"], taken["fence"], taken["marked"])


async def _unlink(conn: Connection, *, stripe_customer_id: str) -> None:
    """A customer is gone at Stripe: the books stay, the next purchase makes a new one."""
    epoch: int = await conn.fetchval(queries.stripe_epoch)
    for row in await conn.fetch(queries.stripe_customer_unlink, stripe_customer_id):
        name = checkout.customer_call(row["customer_no"], epoch)
        await conn.execute(queries.stripe_call_forget, name, stripe_customer_id)
