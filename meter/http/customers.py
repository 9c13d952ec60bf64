"""Customers and assets."""

import re
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from ledger import customers
from ledger.customers import AssetAnswer, CustomerAnswer, CustomerErased, StripeCustomerTaken
from ledger.decide import Closed
from ledger.requests import CloseCustomer, Request, SetOverage, Settle
from meter import auth, erase, parse, subscriptions
from meter.auth import TokenAnswer
from meter.erase import Erased
from meter.http import bodies
from meter.http.hot import JSON, reply
from meter.http.paging import LIMIT, Page, page, place
from meter.problems import ProblemError
from meter.route import Call, Query, Reply, Route
from meter.service import customer_missing
from sql.pool import Connection, transaction

MEMBERS: Final = (
    *("name", "email", "time_zone", "currency", "rate_card", "stripe_customer_id", "metadata"),
)
"""Of a customer's profile, as the body has them."""
_ASSET_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)

_encode = msgspec.json.Encoder().encode


def answer(status: int, value: object) -> Reply:
    return Reply(status, _encode(value), (JSON,))


async def put_customer(call: Call) -> Reply:
    """Make a customer, or change the members that are given."""
    service, customer_id = call.service, call.ids[0]
    parse.customer_id(customer_id, "")
    assert call.body is not None
    wanted = parse.decode(call.body, bodies.CustomerBody)
    members, overage = await _profile(call, wanted), _overage(call, wanted)
    if call.key.customer_no is not None:
        number, is_new = await service.customer_no(call, customer_id), False
    else:
        number, is_new = await service.directory.make(customer_id)
    request = _change(call, number, overage)
    scale = service.credit_scale("credits")

    async def write() -> CustomerAnswer | None:
        async with transaction(service.pool) as conn:
            await service.decide_in(conn, request)
            if overage is not None and overage["policy"] == "bill":
                await subscriptions.stand(service, conn, number)
            if members:
                await _put_profile(conn, number, members)
            return await customers.read(conn, number, scale)

    return answer(201 if is_new else 200, await service.retried(write))


async def _put_profile(conn: Connection, number: int, members: dict[str, Any]) -> None:
    try:
        await customers.put_profile(conn, number, members)
    except StripeCustomerTaken:
        raise ProblemError(
            409,
            "stripe_customer_taken",
            "Another customer is this one at Stripe. Nothing was changed.",
            pointer="/stripe_customer_id",
        ) from None
    except CustomerErased:
        raise ProblemError(
            409,
            "customer_erased",
            "The personal fields of this customer were erased: nothing is taken in again.",
        ) from None


async def _profile(call: Call, wanted: bodies.CustomerBody) -> dict[str, Any]:
    """The members of the profile that the body names; null clears one."""
    assert call.body is not None
    given = call.body.value
    members: dict[str, Any] = {name: getattr(wanted, name) for name in MEMBERS if name in given}
    if "time_zone" in members:
        members["time_zone"] = _time_zone(members["time_zone"] or "UTC")
    if members.get("currency") is not None:
        call.service.money_scale(members["currency"], "/currency")
    if "rate_card" in members:
        await _check_rate_card(call, members["rate_card"])
    if "stripe_customer_id" in members and call.key.customer_no is not None:
        raise ProblemError(403, "scope_missing", "A key of one customer can't say who it is.")
    if "metadata" in members:
        members["metadata"] = parse.metadata(members["metadata"] or {}, "/metadata")
    return members


async def _check_rate_card(call: Call, key: str | None) -> None:
    if call.key.customer_no is not None:
        raise ProblemError(403, "scope_missing", "A key of one customer can't change its prices.")
    if key is not None and not await call.service.has_rate_card(key):
        raise ProblemError(
            422,
            "invalid_rate_card",
            "There is no rate card of this key: POST /v1/rate-cards publishes one.",
            pointer="/rate_card",
        )


def _time_zone(name: str) -> str:
    return zone_of(name).key


def zone_of(name: str) -> ZoneInfo:
    """A zone by its name. Raises ProblemError 422 `invalid_time_zone`."""
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError) as error:
        raise ProblemError(
            422,
            "invalid_time_zone",
            "time_zone is a name of the IANA database, such as Europe/Budapest.",
            pointer="/time_zone",
        ) from error


def _overage(call: Call, wanted: bodies.CustomerBody) -> dict[str, Any] | None:
    """What the body sets of the policy; None if it leaves it."""
    overage = wanted.overage
    if overage is None:
        return None
    if call.key.customer_no is not None:
        raise ProblemError(403, "scope_missing", "A key of one customer can't change overage.")
    limit, scale = None, call.service.credit_scale("credits")
    if overage.limit is not None:
        if overage.policy == "deny":
            raise ProblemError(
                422, "invalid_overage", "deny has no limit.", pointer="/overage/limit"
            )
        limit = parse.amount(overage.limit, scale, "/overage/limit")
    elif overage.policy == "owe":
        raise ProblemError(422, "invalid_overage", "owe needs a limit.", pointer="/overage/limit")
    return {"policy": overage.policy, "limit": limit, "scale": scale}


def _change(call: Call, number: int, overage: dict[str, Any] | None) -> Request:
    """What the books do at a PUT: set the policy, or nothing but what time has done."""
    common: dict[str, Any] = {
        "customer_no": number,
        "operation": "put_customer",
        "api_key_no": call.key.key_no,
        "request_id": call.request_id,
    }
    return Settle(**common) if overage is None else SetOverage(**common, **overage)


async def get_customer(call: Call) -> Reply:
    """A customer with its overage policy."""
    number = await call.service.customer_no(call, call.ids[0])
    async with transaction(call.service.pool) as conn:
        found = await customers.read(conn, number, call.service.credit_scale("credits"))
    if found is None:
        raise customer_missing()
    return answer(200, found)


async def list_customers(call: Call) -> Reply:
    """Customers, newest first, with the filters of the query."""
    status = call.query.get("status")
    if status not in {None, "open", "closed"}:
        raise ProblemError(422, "invalid_query", "status is open or closed.")
    at = place(call, "customers")
    async with transaction(call.service.pool) as conn:
        found, more = await customers.listed(
            conn,
            call.service.credit_scale("credits"),
            query=call.query.get("query"),
            status=status,
            only=call.key.customer_no,
            after=at.after,
            limit=at.limit,
        )
    return page(call, "customers", found, more)


async def close_customer(call: Call) -> Reply:
    """Refuse new holds, charges and grants from now on; what remains is in the answer."""
    assert call.body is not None
    parse.decode(call.body, bodies.CloseBody)
    request = CloseCustomer(
        customer_no=await call.service.customer_no(call, call.ids[0]),
        key=call.idempotency_key,
        operation="close_customer",
        fingerprint=parse.fingerprint("close_customer", call.ids, call.body.canonical),
        api_key_no=call.key.key_no,
        request_id=call.request_id,
        trace_id=call.trace_id,
    )
    return reply(await call.service.batcher.submit(request))


async def erase_customer(call: Call) -> Reply:
    """Erase the personal fields of a closed customer; the books stay, and still prove.

    Name, e-mail, metadata, references, reasons, who it is at Stripe, what Stripe was sent and told,
    card fingerprints, and of usage events all that no meter reads. Its keys and tokens end. Asked
    again it erases what is new since. The customer at Stripe is yours to delete.
    """
    assert call.body is not None
    parse.decode(call.body, bodies.CloseBody)
    customer_id = call.ids[0]
    number = await call.service.customer_no(call, customer_id)
    return answer(200, await erase.erase(call.service, number, customer_id))


async def make_token(call: Call) -> Reply:
    """A short-lived token for the customer's own eyes; it dies with the key that made it."""
    assert call.body is not None
    wanted = parse.decode(call.body, bodies.TokenBody)
    number = await call.service.customer_no(call, call.ids[0])
    async with transaction(call.service.pool) as conn:
        made = await auth.create_token(
            conn,
            parent=call.key,
            scopes=wanted.scopes,
            customer_no=number,
            expires_in=wanted.expires_in,
        )
    return answer(201, made)


async def put_asset(call: Call) -> Reply:
    """Make an asset of credits, or change the scale of one that nobody has used yet."""
    code = call.ids[0]
    assert call.body is not None
    wanted = parse.decode(call.body, bodies.AssetBody)
    if _ASSET_CODE.fullmatch(code) is None:
        raise ProblemError(
            422,
            "invalid_asset",
            "An asset's code is 1-32 of a-z, 0-9 and _, beginning with a letter. Currencies "
            "exist from the start.",
        )
    async with transaction(call.service.pool) as conn:
        made = await customers.put_asset(conn, code, wanted.scale)
    await call.service.refresh()
    if made is None:
        raise ProblemError(
            409, "asset_in_use", "This asset is in use: its scale can't change any more."
        )
    return answer(201 if made[1] else 200, made[0])


async def list_assets(call: Call) -> Reply:
    """All assets, currencies included."""
    at = place(call, "assets")
    async with transaction(call.service.pool) as conn:
        found = [asset for asset in await customers.assets(conn) if asset.code > (at.after or "")]
    more = found[at.limit - 1].code if len(found) > at.limit else None
    return page(call, "assets", found[: at.limit], more)


ROUTES: Final = (
    Route(
        method="PUT",
        path="/v1/customers/{customer_id}",
        operation="put_customer",
        summary="Make a customer, or change the members that are given.",
        scope="customers:write",
        handler=put_customer,
        tag="Customers",
        body=bodies.CustomerBody,
        answers={200: CustomerAnswer, 201: CustomerAnswer},
        errors=(
            "invalid_rate_card",
            "customer_not_found",
            "too_many_lots",
            "stripe_customer_taken",
            "customer_erased",
        ),
        example={"name": "Acme", "overage": {"policy": "owe", "limit": "20"}},
    ),
    Route(
        method="GET",
        path="/v1/customers/{customer_id}",
        operation="get_customer",
        summary="A customer.",
        scope="customers:read",
        handler=get_customer,
        tag="Customers",
        answers={200: CustomerAnswer},
        errors=("customer_not_found",),
    ),
    Route(
        method="GET",
        path="/v1/customers",
        operation="list_customers",
        summary="Customers, newest first.",
        scope="customers:read",
        handler=list_customers,
        tag="Customers",
        answers={200: Page[CustomerAnswer]},
        query=(
            Query("query", "Part of an id, a name or an e-mail address."),
            Query("status", "open or closed.", {"type": "string", "enum": ["open", "closed"]}),
            *LIMIT,
        ),
    ),
    Route(
        method="POST",
        path="/v1/customers/{customer_id}/close",
        operation="close_customer",
        summary="Refuse new holds, charges and grants; what is open can be finished.",
        scope="customers:write",
        handler=close_customer,
        tag="Customers",
        body=bodies.CloseBody,
        answers={200: Closed},
        errors=("customer_not_found", "too_many_lots"),
        needs_key=True,
        example={},
    ),
    Route(
        method="POST",
        path="/v1/customers/{customer_id}/erase",
        operation="erase_customer",
        summary="Erase a closed customer's personal fields; the books stay provable.",
        scope="customers:write",
        handler=erase_customer,
        tag="Customers",
        body=bodies.CloseBody,
        answers={200: Erased},
        errors=("customer_not_found", "customer_in_use"),
        example={},
    ),
    Route(
        method="POST",
        path="/v1/customers/{customer_id}/tokens",
        operation="make_token",
        summary="A short-lived token for one customer's own reads.",
        scope="customers:write",
        handler=make_token,
        tag="Customers",
        body=bodies.TokenBody,
        answers={201: TokenAnswer},
        errors=("customer_not_found",),
        example={"scopes": ["customers:read"], "expires_in": 3600},
    ),
    Route(
        method="PUT",
        path="/v1/assets/{code}",
        operation="put_asset",
        summary="Make an asset of credits; its scale is fixed once used.",
        scope="catalog:write",
        handler=put_asset,
        tag="Assets",
        body=bodies.AssetBody,
        answers={200: AssetAnswer, 201: AssetAnswer},
        errors=("asset_in_use",),
        example={"scale": 0},
    ),
    Route(
        method="GET",
        path="/v1/assets",
        operation="list_assets",
        summary="All assets, currencies included.",
        scope="catalog:read",
        handler=list_assets,
        tag="Assets",
        answers={200: Page[AssetAnswer]},
        query=LIMIT,
    ),
)
