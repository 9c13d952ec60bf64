"""The job `auto_top_up`: buys a pack by the saved card where credit runs low.

The purchase and the attempt are ours before Stripe hears of them, and an attempt stays open until
the payment's fate is known: no second one begins before that. What the bank does not take at once
is given up at Stripe, so that it can't be paid later, and then counts as a decline.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any, Final

import msgspec
import structlog
from asyncpg import Record
from msgspec import Struct

from jobs.runner import Counts, Run, together
from ledger import customers, load_purchases
from ledger.bought import Terms
from ledger.ids import parse_id
from ledger.load_purchases import PurchaseRef
from ledger.requests import MarkPurchase, OpenPurchase, Settle
from meter import checkout, packs, stripe_calls, stripe_news, top_ups
from meter.service import Service
from meter.stripe_calls import StripeCall
from meter.stripe_port import Card, Made, StripeFault, StripePort
from meter.top_ups import AUTHENTICATION, BACKOFF, Used, Wait
from sql import queries
from sql.errors import DatabaseFault
from sql.pool import Connection, transaction

TOGETHER_MAX: Final = 8
ROUNDS_MAX: Final = 100
GONE: Final = frozenset({"succeeded", "processing"})
"""The money is on its way: what is left is to wait."""
LOOK_AGAIN_MIN: Final = timedelta(seconds=5)
LOOK_AGAIN_MAX: Final = timedelta(hours=1)
"""Between two looks at a payment that is on its way: a bank debit takes days."""

log = structlog.get_logger()


class Attempt(Struct, frozen=True):
    """One charge that was begun."""

    owner: PurchaseRef
    call: str
    fingerprint: str


async def auto_top_up(run: Run) -> Counts:
    """Look after the attempts that are open, then begin those that are due. In bounded rounds."""
    counts = {"started": 0, "paid": 0, "declined": 0, "waiting": 0, "idle": 0, "failed": 0}
    stripe = run.service.stripe
    if stripe is None:
        return counts
    for statement, look in ((queries.top_ups_open, _follow), (queries.top_ups_low, _start)):
        async for rows in _rounds(run, statement):
            tries = (_one(look, run.service, stripe, row) for row in rows)
            for fate in await together(tries):
                counts[fate] += 1
    return counts


Look = Callable[[Service, StripePort, Record], Awaitable[str]]


async def _one(look: Look, service: Service, stripe: StripePort, row: Record) -> str:
    """Look after one customer. What goes wrong there keeps nobody else waiting. Never raises."""
    try:
        return await look(service, stripe, row)
    except StripeFault as fault:
        log.warning("top_up_waits", error=str(fault), kind=fault.kind, request=fault.request_id)
        return "waiting"
    except DatabaseFault as fault:
        log.warning("top_up_waits", error=str(fault))
        return "waiting"
    except Exception:
        log.exception("top_up_failed", customer_no=row["customer_no"])
        return "failed"


async def _rounds(run: Run, statement: str) -> AsyncIterator[list[Record]]:
    """The rows of a statement, by customer."""
    after = 0
    for _ in range(ROUNDS_MAX):
        if run.stopping.is_set():
            return
        async with run.transaction() as conn:
            rows = await conn.fetch(statement, after, TOGETHER_MAX)
        if not rows:
            return
        yield rows
        after = rows[-1]["customer_no"]


async def _start(service: Service, stripe: StripePort, row: Record) -> str:
    """Begin an attempt for one customer, if it is still due, and charge the card. May raise."""
    customer_no = row["customer_no"]

    async def due() -> bool:
        async with transaction(service.pool) as conn:
            return await _due(service, conn, customer_no) is not None

    if not await service.retried(due):
        return "idle"
    card = await _card(service, stripe, customer_no)
    if card is None:
        async with transaction(service.pool) as conn:
            await conn.execute(queries.top_up_without_card, customer_no)
            await _ask_for_card(conn, customer_no)
        return "idle"

    async def begin() -> Attempt | None:
        async with transaction(service.pool) as conn:
            return await _begin(service, conn, customer_no, card)

    attempt = await service.retried(begin)
    if attempt is None:
        return "idle"
    await _charge(service, stripe, attempt)
    return "started"


async def _card(service: Service, stripe: StripePort, customer_no: int) -> Card | None:
    """What is charged: the default card, else the newest."""
    async with transaction(service.pool) as conn:
        known = await conn.fetchrow(queries.stripe_customer_read, customer_no)
    if known is None or known["stripe_customer_id"] is None:
        return None
    return next(iter(await stripe.cards(known["stripe_customer_id"])), None)


async def _ask_for_card(conn: Connection, customer_no: int) -> None:
    """Let the inbox see whether another card came while this one was tried."""
    known = await conn.fetchrow(queries.stripe_customer_read, customer_no)
    if known is not None and known["stripe_customer_id"] is not None:
        await stripe_news.mark(conn, known["stripe_customer_id"], "customer")


async def _due(service: Service, conn: Connection, customer_no: int) -> Terms | None:
    """What is to be bought now; None: nothing. Keeps others out until the transaction ends."""
    await service.decide_in(conn, Settle(customer_no=customer_no, operation="auto_top_up"))
    if await conn.fetchval(queries.top_up_lock, customer_no) is None:
        return None
    wanted = await top_ups.read(conn, customer_no)
    assert wanted is not None, "it is locked"
    has = int(await conn.fetchval(queries.top_up_has, customer_no, wanted.asset))
    if has > wanted.threshold:
        return None
    pack = await packs.latest(conn, wanted.pack)
    known = await conn.fetchrow(queries.stripe_customer_read, customer_no)
    if known is None or known["closed_at"] is not None:
        return await _wait(conn, customer_no, "closed")
    if pack is None or not pack.is_active or pack.asset != wanted.asset:
        return await _wait(conn, customer_no, "pack")
    currency = checkout.currency_of(pack, known["currency"])
    if wanted.amount_month is not None and wanted.currency != currency:
        return await _wait(conn, customer_no, "currency")
    now = await customers.now(conn)
    used = Used(*await conn.fetchrow(queries.top_up_used, customer_no, now, currency) or (0, 0))
    number = top_ups.packs_to_buy(wanted, pack, pack.prices[currency], has, used)
    if number == 0:
        return await _wait(conn, customer_no, "cap")
    return checkout.terms_of(pack, number, currency)


async def _wait(conn: Connection, customer_no: int, why: Wait) -> None:
    """Look again later: there is nothing to buy, so Stripe is asked nothing."""
    await conn.execute(queries.top_up_wait, customer_no, why)


class _Opened(Struct, frozen=True):
    id: str


async def _begin(
    service: Service, conn: Connection, customer_no: int, card: Card
) -> Attempt | None:
    """Record the purchase, the call and the attempt; None: it is not due any more."""
    terms = await _due(service, conn, customer_no)
    known = await conn.fetchrow(queries.stripe_customer_read, customer_no)
    if terms is None or known is None:
        return None
    common: dict[str, Any] = {"customer_no": customer_no, "operation": "auto_top_up"}
    result = await service.decide_in(conn, OpenPurchase(**common, terms=terms))
    purchase_id = msgspec.json.decode(result.body, type=_Opened).id
    found = parse_id("pur", purchase_id)
    assert found is not None, "the books name it so"
    owner = PurchaseRef(*found)
    epoch: int = await conn.fetchval(queries.stripe_epoch)
    name = f"top-up-{purchase_id}-{epoch}"
    params = {
        "amount": terms.amount,
        "currency": terms.currency.lower(),
        "customer": known["stripe_customer_id"],
        "payment_method": card.card_id,
        "off_session": True,
        "confirm": True,
        "description": terms.product,
        "metadata": {
            "drawdown": service.installation_id,
            "drawdown_call": name,
            "purchase_id": purchase_id,
            "user_id": known["customer_id"],
        },
    }
    await stripe_calls.note(
        conn,
        StripeCall(
            name=name,
            kind="intent",
            params=params,
            customer_no=customer_no,
            purchase_no=owner.purchase_no,
        ),
    )
    await conn.execute(
        queries.top_up_begin,
        *(customer_no, owner.purchase_no, name, card.card_id, card.fingerprint),
        *(terms.currency, terms.amount),
    )
    return Attempt(owner, name, card.fingerprint)


async def _charge(service: Service, stripe: StripePort, attempt: Attempt) -> str:
    """Charge the card, once. What came of it. May raise."""

    async def then(conn: Connection, made: Made) -> None:
        await load_purchases.link(conn, made.object_id, attempt.owner)
        await stripe_news.mark(conn, made.object_id, "intent")

    try:
        made = await stripe_calls.send(service, attempt.call, then, may_change=False)
        return await _look(service, stripe, attempt, made.object_id, None)
    except StripeFault as fault:
        if not fault.is_final:
            log.warning("top_up_waits", call=attempt.call, error=str(fault), kind=fault.kind)
            return "waiting"
        return await _refused(service, stripe, attempt, fault)


async def _refused(
    service: Service, stripe: StripePort, attempt: Attempt, fault: StripeFault
) -> str:
    """The bank, or Stripe, has said no. May raise."""
    if fault.object_id is not None:
        return await _look(service, stripe, attempt, fault.object_id, fault)
    await _declined(service, attempt, fault)
    return "declined"


async def _look(
    service: Service,
    stripe: StripePort,
    attempt: Attempt,
    intent_id: str,
    fault: StripeFault | None,
) -> str:
    """What has become of an intent; what nobody is there to go on with is given up. May raise."""
    status = await stripe.intent_status(intent_id)
    needs_customer = status == "requires_action"
    if status not in GONE:
        status = await stripe.cancel_intent(intent_id)
    if status in GONE:
        async with transaction(service.pool) as conn:
            await load_purchases.link(conn, intent_id, attempt.owner)
            await stripe_news.mark(conn, intent_id, "intent")
            place = attempt.owner.customer_no, attempt.owner.purchase_no
            await conn.execute(queries.top_up_look_later, *place, LOOK_AGAIN_MIN, LOOK_AGAIN_MAX)
        return "waiting"
    if fault is None:
        code = AUTHENTICATION if needs_customer else None
        fault = StripeFault("declined", "The payment was not completed.", code=code)
    await _declined(service, attempt, fault)
    return "declined"


async def _declined(service: Service, attempt: Attempt, fault: StripeFault) -> None:
    """End an attempt: the purchase has failed, and the next one waits."""
    owner = attempt.owner
    log.info("top_up_declined", call=attempt.call, code=fault.code, request=fault.request_id)

    async def write() -> None:
        async with transaction(service.pool) as conn:
            failed = MarkPurchase(
                customer_no=owner.customer_no,
                purchase_no=owner.purchase_no,
                operation="mark_purchase",
                mark="failed",
            )
            await service.decide_in(conn, failed)
            place = owner.customer_no, owner.purchase_no
            words = str(fault)[:500]
            if await conn.fetchval(queries.top_up_end, *place, "failed", words) is None:
                return
            await conn.execute(
                queries.top_up_declined,
                *(owner.customer_no, attempt.fingerprint, words, list(BACKOFF)),
                fault.code == AUTHENTICATION,
            )
            await _ask_for_card(conn, owner.customer_no)

    await service.retried(write)


async def _follow(service: Service, stripe: StripePort, row: Record) -> str:
    """What has become of an attempt that is open. May raise."""
    owner = PurchaseRef(row["customer_no"], row["purchase_no"])
    attempt = Attempt(owner, row["call"], row["fingerprint"])
    if row["purchase"] == "credited":
        async with transaction(service.pool) as conn:
            place = owner.customer_no, owner.purchase_no
            if await conn.fetchval(queries.top_up_end, *place, "paid", None) is not None:
                await conn.execute(queries.top_up_worked, owner.customer_no)
        return "paid"
    if row["object_id"] is None:
        return await _charge(service, stripe, attempt)
    return await _look(service, stripe, attempt, row["object_id"], None)
