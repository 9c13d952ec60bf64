"""A customer exported whole: every record and every word, and nobody else's."""

import re
from collections.abc import AsyncGenerator
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from meter.portability import RECORDS
from sql.pool import Connection, Pool
from tests.person import WORD, live
from tests.servers import Database, connected
from tests.shop import Shop, shop

LEFT_OUT = {
    "accounts": "their balances are exported, by the view of them",
    "money_accounts": "the same",
    "customer_directory": "the id is in the profile",
    "api_keys": "hashes of secrets",
    "hold_steps": "the books' own, for balances at past moments",
    "debts": "they follow from journals",
    "freezes": "they follow from purchases",
    "reversed_charges": "they follow from journals",
    "recognitions": "they follow from journals",
    "period_heads": "the journals have the hashes",
    "billed_usage": "it follows from journals",
    "price_counters": "they follow from charge lines",
    "rollups": "counted from events",
    "rollup_values": "the same",
    "event_guards": "identities of events",
    "meter_rejects": "it follows from events",
    "meter_rebuilds": "state of a job",
    "unrated_events": "state of a job",
    "unrated_windows": "state of a job",
    "unreported_usage": "state of a job",
    "report_items": "state of a job",
    "report_periods": "state of a job",
    "report_windows": "state of a job",
    "report_rows": "state of a job",
    "report_sums": "state of a job",
    "stripe_calls": "what was asked of Stripe, which has its own export",
    "invoice_intents": "ids of Stripe's",
    "auto_top_ups": "a setting",
    "top_up_attempts": "their purchases are exported",
}


@pytest.fixture
async def owner(database: Database) -> AsyncGenerator[Connection]:
    async with connected(database.owner_dsn) as conn:
        yield conn


@pytest.fixture
async def sale(pool: Pool) -> AsyncGenerator[Shop]:
    async with shop(pool) as made:
        yield made


async def exported(sale: Shop, customer_id: str = "acme") -> list[Any]:
    answer = await sale.api.get(f"/v1/customers/{customer_id}/export")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/jsonl")
    return [msgspec.json.decode(line) for line in answer.raw.splitlines()]


async def test_every_record_is_there_with_its_words_and_exact_numbers(sale: Shop) -> None:
    await live(sale)
    await sale.api.customer("other")
    await sale.api.grant("77", "other")

    lines = await exported(sale)

    assert lines[0]["record"] == "customer"
    assert lines[0]["name"] == WORD
    kinds = {line["record"] for line in lines}
    assert kinds == RECORDS.keys() - {"subscription", "charge_line"}
    for kind in ("hold", "journal", "request", "event", "correction", "stripe_delivery"):
        of_kind = [line for line in lines if line["record"] == kind]
        assert any(WORD in msgspec.json.encode(line).decode() for line in of_kind), kind
    moved: dict[tuple[str, str], Decimal] = {}
    for journal in (line for line in lines if line["record"] == "journal"):
        for one in journal["transfers"]:
            for account, sign in ((one["debit"], 1), (one["credit"], -1)):
                place = one["asset"], account
                moved[place] = moved.get(place, Decimal(0)) + sign * Decimal(one["amount"])
    told = {
        (line["asset"], line["account"]): Decimal(line["debits"]) - Decimal(line["credits"])
        for line in lines
        if line["record"] == "account"
    }
    assert told == moved
    seqs = [line["seq"] for line in lines if line["record"] == "journal"]
    assert seqs == list(range(1, len(seqs) + 1))
    assert (
        len(await exported(sale, "other")) == 7
    )  # itself, 2 accounts, grant, lot, journal, request


async def test_nothing_erased_comes_back(sale: Shop) -> None:
    await live(sale)
    await sale.api.post("/v1/customers/acme/erase", {}, key=None)

    lines = await exported(sale)

    assert WORD.lower() not in msgspec.json.encode(lines).decode().lower()
    assert len([line for line in lines if line["record"] == "event"]) == 3


async def test_every_table_of_customers_is_exported_or_left_out_for_a_reason(
    owner: Connection,
) -> None:
    rows = await owner.fetch(
        "SELECT DISTINCT c.relname FROM pg_class AS c"
        " INNER JOIN pg_attribute AS a ON c.oid = a.attrelid"
        " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')"
        " AND NOT c.relispartition AND a.attname = 'customer_no'"
    )
    tables = {row[0] for row in rows}
    read = set(re.findall(r"(?:FROM|JOIN)\s+(\w+)", "\n".join(RECORDS.values())))

    assert tables - read == LEFT_OUT.keys()
