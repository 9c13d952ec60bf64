"""Reads of the books: balances, statements, holds, charges, grants, journals, answered requests."""

from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from ledger import explain, history, reads, records
from ledger.answers import ChargeAnswer, GrantAnswer, HoldAnswer
from ledger.chart import JOURNAL_KINDS
from ledger.explain import Explanation
from ledger.history import FutureMoment, StatementLine, StatementPosition
from ledger.ids import parse_id
from ledger.reads import BalanceAnswer, UnknownCustomer, Unsettled
from ledger.records import JournalAnswer, RequestAnswer
from meter import parse
from meter.http.customers import answer
from meter.http.paging import LIMIT, Page, link, next_cursor, page, place
from meter.http.readers import owned
from meter.problems import ProblemError
from meter.route import Call, Handler, Query, Reply, Route
from meter.service import customer_missing
from sql.pool import transaction

ASSET: Final = Query("asset", "The asset; left out: credits.")
FROM: Final = Query("from", "From this time on.", {"type": "string", "format": "date-time"})
TO: Final = Query("to", "Before this time.", {"type": "string", "format": "date-time"})
CUSTOMER: Final = Query(
    "customer_id", "Whose. A key of one customer may leave it out.", is_required=False
)
AXES: Final = ("effective", "created")
HOLD_STATUSES: Final = ("open", "captured", "voided", "expired")


def guarded(handler: Handler) -> Handler:
    """What reads can refuse, as problems."""

    async def guard(call: Call) -> Reply:
        try:
            return await call.service.retried(lambda: handler(call))
        except UnknownCustomer as error:
            raise customer_missing() from error
        except Unsettled as error:
            raise ProblemError(
                503,
                "busy",
                "Time has done more to this customer than one read works out. It is being posted "
                "in steps: ask again a little later.",
            ) from error
        except FutureMoment as error:
            raise ProblemError(
                422, "invalid_query", f"A past moment is asked for, but {error}."
            ) from error

    guard.__doc__ = handler.__doc__
    return guard


async def _asset(call: Call) -> str:
    code = call.query.get("asset", "credits")
    await call.service.asset_scale(code, "")
    return code


def moment(call: Call, name: str) -> datetime | None:
    given = call.query.get(name)
    # A plus sign of an offset that was not percent-encoded arrives as a space.
    return None if given is None else parse.timestamp(given.replace(" ", "+"), f"/{name}")


async def _customer(call: Call) -> int:
    """The customer that a list is about: of the query, or of the key."""
    given = call.query.get("customer_id")
    if given is None:
        if call.key.customer_no is None:
            raise ProblemError(422, "invalid_query", "Say whose: ?customer_id=…")
        return call.key.customer_no
    return await call.service.customer_no(call, given, pointer="/customer_id")


@guarded
async def get_balance(call: Call) -> Reply:
    """What a customer has now, or had at a past moment."""
    service, asset = call.service, await _asset(call)
    axis = call.query.get("axis", "effective")
    if axis not in AXES:
        raise ProblemError(422, "invalid_query", "axis is effective or created.")
    at = moment(call, "at")
    number = await service.customer_no(call, call.ids[0])
    if at is None:
        async with transaction(service.pool, snapshot=True) as conn:
            return answer(200, await reads.balance(conn, number, asset, service.settings()))
    async with transaction(service.pool, snapshot=axis == "effective") as conn:
        found = await history.balance_at(conn, number, asset, at, axis, service.settings())  # type: ignore[arg-type]
    return answer(200, found)


class StatementPage(Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """opening + the lines of all pages = closing."""

    customer_id: str
    asset: str
    from_: datetime | None
    to: datetime
    opening: str
    lines: list[StatementLine]
    closing: str
    has_more: bool
    next_cursor: str | None


@guarded
async def get_statement(call: Call) -> Reply:
    """Every journal that moved the wallet, with the running balance, in the order of the book."""
    asset, at = await _asset(call), place(call, "statement")
    after = None if at.after is None else msgspec.convert(at.after, StatementPosition)
    from_, to = moment(call, "from"), moment(call, "to")
    number = await call.service.customer_no(call, call.ids[0])
    async with transaction(call.service.pool) as conn:
        found, more = await history.statement(
            conn,
            number,
            asset,
            call.service.settings(),
            from_=from_,
            to=to,
            after=after,
            limit=at.limit,
        )
    cursor = next_cursor(call, "statement", more)
    whole = StatementPage(
        **msgspec.structs.asdict(found), has_more=cursor is not None, next_cursor=cursor
    )
    return msgspec.structs.replace(answer(200, whole), headers=link(call, cursor))


@guarded
async def get_explanation(call: Call) -> Reply:
    """What makes up the balance, in words and numbers, with the latest refusals."""
    number = await call.service.customer_no(call, call.ids[0])
    asset = await _asset(call)
    async with transaction(call.service.pool, snapshot=True) as conn:
        found = await explain.explain(conn, number, asset, call.service.settings())
    return answer(200, found)


@guarded
async def get_request(call: Call) -> Reply:
    """The answer that an idempotency key has. 404: not applied yet; only a retry settles it."""
    number = await call.service.customer_no(call, call.ids[0])
    key = parse.idempotency_key(call.ids[1].encode("utf-8", "replace"))
    async with transaction(call.service.pool, snapshot=True) as conn:
        found = None if key is None else await records.request(conn, number, key)
    if found is None:
        raise ProblemError(
            404,
            "request_not_found",
            "No request of this customer with this key has an answer. It may still be on its way: "
            "only sending it again settles it.",
        )
    return answer(200, found)


def _one(prefix: str, code: str, read: Any) -> Handler:
    @guarded
    async def get(call: Call) -> Reply:
        number, no = owned(call, prefix, call.ids[0], code)
        async with transaction(call.service.pool, snapshot=True) as conn:
            found = await read(conn, number, no, call.service.settings())
        if found is None:
            raise ProblemError(404, code, f"No such {code.removesuffix('_not_found')}.")
        return answer(200, found)

    return get


@guarded
async def list_holds(call: Call) -> Reply:
    """A customer's holds, newest first."""
    number, at = await _customer(call), place(call, "holds")
    status = call.query.get("status")
    if status is not None and status not in HOLD_STATUSES:
        raise ProblemError(422, "invalid_query", f"status is one of {', '.join(HOLD_STATUSES)}.")
    async with transaction(call.service.pool, snapshot=True) as conn:
        found, more = await reads.holds(
            conn, number, call.service.settings(), status=status, after=at.after, limit=at.limit
        )
    return page(call, "holds", found, more)


@guarded
async def list_grants(call: Call) -> Reply:
    """A customer's grants, newest first."""
    number, at = await _customer(call), place(call, "grants")
    async with transaction(call.service.pool, snapshot=True) as conn:
        found, more = await reads.grants(
            conn, number, call.service.settings(), after=at.after, limit=at.limit
        )
    return page(call, "grants", found, more)


@guarded
async def list_charges(call: Call) -> Reply:
    """A customer's charges, newest first."""
    number, at = await _customer(call), place(call, "charges")
    hold_no = None
    if (hold_id := call.query.get("hold_id")) is not None:
        held = parse_id("hld", hold_id)
        if held is None or held[0] != number:
            raise ProblemError(404, "hold_not_found", "No such hold of this customer.")
        hold_no = held[1]
    from_, to = moment(call, "from"), moment(call, "to")
    async with transaction(call.service.pool, snapshot=True) as conn:
        found, more = await records.charges(
            conn,
            number,
            call.service.settings(),
            hold_no=hold_no,
            from_=from_,
            to=to,
            after=at.after,
            limit=at.limit,
        )
    return page(call, "charges", found, more)


@guarded
async def list_journals(call: Call) -> Reply:
    """A customer's journals, newest first."""
    number, at = await _customer(call), place(call, "journals")
    kind = call.query.get("kind")
    if kind is not None and kind not in JOURNAL_KINDS:
        raise ProblemError(422, "invalid_query", f"kind is one of {', '.join(JOURNAL_KINDS)}.")
    from_, to = moment(call, "from"), moment(call, "to")
    async with transaction(call.service.pool, snapshot=True) as conn:
        found, more = await records.journals(
            conn,
            number,
            call.service.settings(),
            kind=kind,
            from_=from_,
            to=to,
            after=at.after,
            limit=at.limit,
        )
    return page(call, "journals", found, more)


class _Get(Struct, frozen=True, kw_only=True):
    path: str
    operation: str
    summary: str
    scope: str
    handler: Handler
    tag: str
    kind: Any
    errors: tuple[str, ...] = ("customer_not_found",)
    query: tuple[Query, ...] = field(default_factory=tuple)

    def route(self) -> Route:
        return Route(
            method="GET",
            path=self.path,
            operation=self.operation,
            summary=self.summary,
            scope=self.scope,
            handler=self.handler,
            tag=self.tag,
            answers={200: self.kind},
            errors=self.errors,
            query=self.query,
        )


ROUTES: Final = tuple(
    get.route()
    for get in (
        _Get(
            path="/v1/customers/{customer_id}/balance",
            operation="get_balance",
            summary="What a customer has, now or at a past moment.",
            scope="customers:read",
            handler=get_balance,
            tag="Customers",
            kind=BalanceAnswer,
            query=(
                ASSET,
                Query("at", "A past moment.", {"type": "string", "format": "date-time"}),
                Query(
                    "axis",
                    "effective: by when things happened; created: by when the book learned of "
                    "them, which never changes once asked.",
                    {"type": "string", "enum": list(AXES)},
                ),
            ),
        ),
        _Get(
            path="/v1/customers/{customer_id}/statement",
            operation="get_statement",
            summary="Opening balance, every movement, closing balance.",
            scope="customers:read",
            handler=get_statement,
            tag="Customers",
            kind=StatementPage,
            query=(ASSET, FROM, TO, *LIMIT),
        ),
        _Get(
            path="/v1/customers/{customer_id}/explain",
            operation="explain",
            summary="What makes up the balance, in words and numbers.",
            scope="customers:read",
            handler=get_explanation,
            tag="Customers",
            kind=Explanation,
            query=(ASSET,),
        ),
        _Get(
            path="/v1/customers/{customer_id}/requests/{key}",
            operation="get_request",
            summary="The answer that an idempotency key has.",
            scope="usage:read",
            handler=get_request,
            tag="Customers",
            kind=RequestAnswer,
            errors=("customer_not_found", "request_not_found", "invalid_idempotency_key"),
        ),
        _Get(
            path="/v1/grants/{grant_id}",
            operation="get_grant",
            summary="A grant, and what is left of it.",
            scope="customers:read",
            handler=_one("grt", "grant_not_found", reads.grant),
            tag="Grants",
            kind=GrantAnswer,
            errors=("grant_not_found",),
        ),
        _Get(
            path="/v1/grants",
            operation="list_grants",
            summary="A customer's grants, newest first.",
            scope="customers:read",
            handler=list_grants,
            tag="Grants",
            kind=Page[GrantAnswer],
            query=(CUSTOMER, *LIMIT),
        ),
        _Get(
            path="/v1/holds/{hold_id}",
            operation="get_hold",
            summary="A hold.",
            scope="usage:read",
            handler=_one("hld", "hold_not_found", reads.hold),
            tag="Hot path",
            kind=HoldAnswer,
            errors=("hold_not_found",),
        ),
        _Get(
            path="/v1/holds",
            operation="list_holds",
            summary="A customer's holds, newest first.",
            scope="usage:read",
            handler=list_holds,
            tag="Hot path",
            kind=Page[HoldAnswer],
            query=(
                CUSTOMER,
                Query("status", "Of one status.", {"type": "string", "enum": list(HOLD_STATUSES)}),
                *LIMIT,
            ),
        ),
        _Get(
            path="/v1/charges/{charge_id}",
            operation="get_charge",
            summary="A charge: what was burned, from which lots.",
            scope="usage:read",
            handler=_one("chg", "charge_not_found", records.charge),
            tag="Charges",
            kind=ChargeAnswer,
            errors=("charge_not_found",),
        ),
        _Get(
            path="/v1/charges",
            operation="list_charges",
            summary="A customer's charges, newest first.",
            scope="usage:read",
            handler=list_charges,
            tag="Charges",
            kind=Page[ChargeAnswer],
            errors=("customer_not_found", "hold_not_found"),
            query=(CUSTOMER, Query("hold_id", "Those of one hold."), FROM, TO, *LIMIT),
        ),
        _Get(
            path="/v1/journals/{journal_id}",
            operation="get_journal",
            summary="A journal with its transfers.",
            scope="books:read",
            handler=_one("jrn", "journal_not_found", records.journal),
            tag="Books",
            kind=JournalAnswer,
            errors=("journal_not_found",),
        ),
        _Get(
            path="/v1/journals",
            operation="list_journals",
            summary="A customer's journals, newest first.",
            scope="books:read",
            handler=list_journals,
            tag="Books",
            kind=Page[JournalAnswer],
            query=(
                CUSTOMER,
                Query("kind", "Of one kind.", {"type": "string", "enum": list(JOURNAL_KINDS)}),
                FROM,
                TO,
                *LIMIT,
            ),
        ),
    )
)
