"""What is the same for all objects: keys, parameters, idempotency, lists, expansion, search."""

from base64 import b64encode
from typing import Any

import msgspec
import pytest
import stripe

from sandbox import schema
from sandbox.keys import fresh_keys
from sandbox.server import running
from tests.stripe.kit import DAY, START, CheckedClient, Kit, code_of, session

# Who may ask


@pytest.mark.parametrize(
    "key", ["sk_test_of_somebody", "sk_live_1234567890abcdefgh", "rk_live_x", "pk_live_x", "x"]
)
async def test_other_keys_are_refused(kit: Kit, key: str) -> None:
    with pytest.raises(stripe.AuthenticationError) as error:
        await kit.client_of(key).v1.customers.list_async()
    assert error.value.http_status == 401
    assert key not in str(error.value) or len(key) < 2


async def test_publishable_key_is_refused(kit: Kit) -> None:
    with pytest.raises(stripe.AuthenticationError) as error:
        await kit.client_of(kit.sandbox.publishable_key).v1.customers.list_async()
    assert code_of(error) == "secret_key_required"


async def test_no_key_and_basic_auth(kit: Kit) -> None:
    url = f"{kit.sandbox.url}/v1/customers"
    async with kit.web.get(url) as answer:
        assert answer.status == 401
        assert "WWW-Authenticate" in answer.headers
    basic = b64encode(f"{kit.sandbox.secret_key}:".encode()).decode()
    async with kit.web.get(url, headers={"Authorization": f"Basic {basic}"}) as answer:
        assert answer.status == 200


async def test_restricted_key_has_its_rights_only(http: CheckedClient) -> None:
    rights = {"rk_test_reader": frozenset({"customers:read"})}
    keys = msgspec.structs.replace(fresh_keys(), restricted=rights)
    async with running(keys=keys, is_ticking=False) as sandbox, session() as web:
        kit = Kit(sandbox, http, web)
        client = kit.client_of("rk_test_reader")
        assert (await client.v1.customers.list_async()).data == []
        with pytest.raises(stripe.PermissionError):
            await client.v1.customers.create_async({})


# What may be asked


async def test_answer_echoes_request_version_and_key(kit: Kit) -> None:
    headers = {"Idempotency-Key": "k1", "Stripe-Version": schema.VERSION}
    status, body, found = await kit.raw("POST", "/v1/customers", headers=headers)
    assert (status, body["livemode"]) == (200, False)
    assert found["Request-Id"].startswith("req_")
    assert (found["Stripe-Version"], found["Idempotency-Key"]) == (schema.VERSION, "k1")


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/credit_notes", "/v1/charges", "/v3/x"])
async def test_unknown_url_is_a_404(kit: Kit, path: str) -> None:
    url = kit.sandbox.url + path
    headers = {"Authorization": f"Bearer {kit.sandbox.secret_key}"}
    async with kit.web.post(url, headers=headers) as answer:
        assert answer.status == 404
        if not path.startswith("/v3"):
            body = await answer.json()
            assert body["error"]["type"] == "invalid_request_error"
            assert body["error"]["message"].startswith("Unrecognized request URL (POST: ")


@pytest.mark.parametrize(
    ("path", "form", "code", "param"),
    [
        ("customers", "nme=x", "parameter_unknown", "nme"),
        ("customers", "address[streets]=x", "parameter_unknown", "address[streets]"),
        ("customers", "email=", "parameter_invalid_empty", "email"),
        ("customers", "balance=1.5", "parameter_invalid_integer", "balance"),
        ("payment_intents", "currency=usd", "parameter_missing", "amount"),
        ("payment_intents", "amount=10&currency=usd", "amount_too_small", "amount"),
        ("payment_intents", "amount=123456789&currency=usd", "amount_too_large", "amount"),
        (
            "payment_intents",
            "amount=100&currency=usd&payment_method_types[]=card",
            "payment_method_types_no_longer_supported",
            "payment_method_types",
        ),
        ("checkout/sessions", "ui_mode=hosted", "parameter_invalid_enum", "ui_mode"),
        ("checkout/sessions", "mode=gift", "parameter_invalid_enum", "mode"),
        ("subscriptions", "customer=cus_1", "resource_missing", "customer"),
        ("subscriptions", "items[0][price]=x", "parameter_missing", "customer"),
        (
            "prices",
            "currency=usd&product=prod_none&unit_amount=1",
            "resource_missing",
            "product",
        ),
    ],
)
async def test_wrong_parameters_are_named(
    kit: Kit, path: str, form: str, code: str, param: str
) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    status, body, found = await kit.raw("POST", f"/v1/{path}", data=form, headers=headers)
    error = body["error"]
    assert (status, error["type"]) == (400, "invalid_request_error")
    assert (error["code"], error["param"]) == (code, param)
    assert found["Stripe-Should-Retry"] == "false"


async def test_forms_are_read_in_all_spellings(kit: Kit) -> None:
    form = "name=Zo%C3%AB+%26+co&preferred_locales[]=de&preferred_locales[]=fr&metadata[a]=1"
    form += "&address[city]=Graz&name=Zo%C3%AB"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    _, body, _ = await kit.raw("POST", "/v1/customers", data=form, headers=headers)
    assert (body["name"], body["preferred_locales"]) == ("Zoë", ["de", "fr"])
    assert (body["metadata"], body["address"]) == ({"a": "1"}, {"city": "Graz"})


@pytest.mark.parametrize("form", ["a[b=1", "a=1&a[b]=2", "[x]=1", "a" + "[b]" * 40 + "=1"])
async def test_forms_without_sense_are_refused(kit: Kit, form: str) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    status, body, _ = await kit.raw("POST", "/v1/customers", data=form, headers=headers)
    assert (status, body["error"]["type"]) == (400, "invalid_request_error")


async def test_metadata_merges_and_clears(kit: Kit) -> None:
    made = await kit.v1.customers.create_async({"metadata": {"a": "1", "b": "2"}})
    change = {"metadata": {"a": "", "c": "3"}}
    merged = await kit.v1.customers.update_async(made.id, change)
    assert merged.metadata.to_dict() == {"b": "2", "c": "3"}
    cleared = await kit.v1.customers.update_async(made.id, {"metadata": ""})
    assert cleared.metadata.to_dict() == {}


@pytest.mark.parametrize("metadata", [{"k" * 41: "v"}, {"k": "v" * 501}])
async def test_metadata_has_limits(kit: Kit, metadata: dict[str, str]) -> None:
    with pytest.raises(stripe.InvalidRequestError):
        await kit.v1.customers.create_async({"metadata": metadata})


async def test_missing_object_is_a_404(kit: Kit) -> None:
    with pytest.raises(stripe.InvalidRequestError) as error:
        await kit.v1.customers.retrieve_async("cus_none")
    assert (error.value.http_status, code_of(error)) == (404, "resource_missing")


# Once


async def test_same_key_and_parameters_replay_the_first_answer(kit: Kit) -> None:
    given = {"amount": 500, "currency": "usd"}
    made = [
        await kit.v1.payment_intents.create_async(given, {"idempotency_key": "k"}) for _ in range(2)
    ]
    assert made[0].id == made[1].id
    assert made[1].last_response.headers["Idempotent-Replayed"] == "true"
    assert len(await kit.state("payment_intent")) == 1
    found = (await kit.look("requests?path=/v1/payment_intents"))["data"]
    assert [row["replayed"] for row in found] == [False, True]
    assert {row["idempotency_key"] for row in found} == {"k"}


@pytest.mark.parametrize("path", ["payment_intents", "customers"])
async def test_same_key_with_other_content_is_refused(kit: Kit, path: str) -> None:
    options = {"idempotency_key": "k"}
    await kit.v1.payment_intents.create_async({"amount": 500, "currency": "usd"}, options)
    other = {} if path == "customers" else {"amount": 501, "currency": "usd"}
    with pytest.raises(stripe.IdempotencyError) as error:
        await getattr(kit.v1, path).create_async(other, options)
    assert error.value.http_status == 400


async def test_validation_errors_are_not_kept_but_declines_are(kit: Kit) -> None:
    options = {"idempotency_key": "k"}
    with pytest.raises(stripe.InvalidRequestError):
        await kit.v1.payment_intents.create_async({"currency": "usd"}, options)
    with pytest.raises(stripe.InvalidRequestError):  # the same again: not replayed
        await kit.v1.payment_intents.create_async({"currency": "usd"}, options)
    for _ in range(2):
        with pytest.raises(stripe.CardError) as error:
            await kit.v1.payment_intents.create_async(
                {
                    "amount": 500,
                    "currency": "usd",
                    "payment_method": "pm_card_chargeDeclined",
                    "confirm": True,
                },
                {"idempotency_key": "card"},
            )
        assert error.value.http_status == 402
    assert len(await kit.state("charge")) == 1


async def test_keys_are_forgotten_after_a_day(kit: Kit) -> None:
    options = {"idempotency_key": "k"}
    first = await kit.v1.customers.create_async({}, options)
    await kit.clock(DAY - DAY / 24)
    assert (await kit.v1.customers.create_async({}, options)).id == first.id
    await kit.clock(DAY / 24)
    assert (await kit.v1.customers.create_async({}, options)).id != first.id


async def test_key_that_is_too_long_is_refused(kit: Kit) -> None:
    with pytest.raises(stripe.InvalidRequestError):
        await kit.v1.customers.create_async({}, {"idempotency_key": "k" * 256})


async def test_get_and_delete_ignore_keys(kit: Kit) -> None:
    made = await kit.customer()
    options = {"idempotency_key": "k"}
    assert (await kit.v1.customers.retrieve_async(made.id, {}, options)).email is not None
    gone = await kit.v1.customers.delete_async(made.id, {}, options)
    assert gone.deleted is True
    assert (await kit.v1.customers.retrieve_async(made.id, {}, options)).deleted is True


# Lists


async def test_lists_are_newest_first_in_pages(kit: Kit) -> None:
    made = [(await kit.customer(name=str(number))).id for number in range(5)]
    made.reverse()
    first = await kit.v1.customers.list_async({"limit": 2})
    assert ([one.id for one in first.data], first.has_more) == (made[:2], True)
    after = {"limit": 2, "starting_after": made[1]}
    second = await kit.v1.customers.list_async(after)
    assert ([one.id for one in second.data], second.has_more) == (made[2:4], True)
    last = await kit.v1.customers.list_async({"limit": 2, "starting_after": made[3]})
    assert ([one.id for one in last.data], last.has_more) == (made[4:], False)
    back = await kit.v1.customers.list_async({"limit": 2, "ending_before": made[4]})
    assert ([one.id for one in back.data], back.has_more) == (made[2:4], True)
    walked = [
        one.id async for one in (await kit.v1.customers.list_async({"limit": 2})).auto_paging_iter()
    ]
    assert walked == made


@pytest.mark.parametrize("params", [{"limit": 0}, {"limit": 101}, {"starting_after": "cus_none"}])
async def test_pages_that_cannot_be(kit: Kit, params: dict[str, Any]) -> None:
    with pytest.raises(stripe.InvalidRequestError):
        await kit.v1.customers.list_async(params)


async def test_lists_are_filtered(kit: Kit) -> None:
    await kit.customer(email="a@example.com")
    await kit.clock(DAY)
    later = await kit.customer(email="b@example.com")
    by_email = await kit.v1.customers.list_async({"email": "b@example.com"})
    assert [one.id for one in by_email.data] == [later.id]
    since = {"created": {"gt": int(START.timestamp())}}
    assert [one.id for one in (await kit.v1.customers.list_async(since)).data] == [later.id]


async def test_search_finds_by_metadata(kit: Kit) -> None:
    wanted = await kit.customer(metadata={"user_id": "u'1"}, name="Jenny")
    await kit.customer(metadata={"user_id": "u2"})
    for query in (
        'metadata["user_id"]:"u\'1"',
        "metadata['user_id']:'u\\'1' AND name~'jen'",
        "-metadata['user_id']:'u2'",
        "created>0 name:'Jenny'",
    ):
        found = await kit.v1.customers.search_async({"query": query})
        assert [one.id for one in found.data] == [wanted.id], query
    with pytest.raises(stripe.InvalidRequestError):
        await kit.v1.customers.search_async({"query": "name = 'x'"})


# Expansion


async def test_expand_puts_objects_in_place_of_ids(kit: Kit) -> None:
    customer = await kit.customer()
    intent = await kit.paid_intent(
        customer=customer.id, expand=["latest_charge.balance_transaction", "customer"]
    )
    assert intent.customer.email == "jenny@example.com"
    assert intent.latest_charge.balance_transaction.net == 1000 - 59
    listed = await kit.v1.payment_intents.list_async({"expand": ["data.customer"]})
    assert listed.data[0].customer.id == customer.id
    charge = intent.latest_charge.id
    plain = await kit.v1.charges.retrieve_async(charge)
    assert "refunds" not in plain
    with_refunds = await kit.v1.charges.retrieve_async(charge, {"expand": ["refunds"]})
    assert with_refunds.refunds.data == []


@pytest.mark.parametrize("path", ["email", "nothing", "latest_charge.amount", "a.b.c.d.e"])
async def test_what_cannot_be_expanded(kit: Kit, path: str) -> None:
    with pytest.raises(stripe.InvalidRequestError):
        await kit.paid_intent(expand=[path])
    assert await kit.state("payment_intent") == []


async def test_queries_are_decoded_once(kit: Kit) -> None:
    made = await kit.customer(email="a+b%2B&c=d@example.com")
    found = await kit.v1.customers.list_async({"email": made.email})
    assert [one.id for one in found.data] == [made.id]
