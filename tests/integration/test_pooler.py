"""What needs many connections, once more through pgbouncer in transaction mode.

The tests of concurrency and of the batcher run here again, with the same code:
only the address of the service's login is another. Every statement of the hot path passes through
them, and so do the reads, the keys and two whole processes.
"""

import os
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from ledger.proofs import prove
from sql.pool import Pool, behind_pooler, open_pool
from tests.conftest import POOL_SIZE, TEST_URL
from tests.integration.test_batcher import (
    test_customer_locked_by_another_holds_up_nobody_else,
    test_long_queue_of_one_customer_does_not_starve_the_others,
    test_refused_requests_cost_their_neighbours_nothing,
    test_request_at_fault_fails_alone,
)
from tests.integration.test_concurrency import (
    test_clients_racing_for_the_last_credit_get_it_once,
    test_hot_customer_has_no_deadlock_and_no_server_error,
    test_one_hold_resolved_by_many_is_resolved_once,
    test_twenty_twins_in_one_process_are_one_effect,
    test_two_processes_share_customers_without_deadlock_loss_or_double,
)
from tests.pooler import pgbouncer, pooled
from tests.servers import Database, Databases, connected

__all__ = [
    "test_clients_racing_for_the_last_credit_get_it_once",
    "test_customer_locked_by_another_holds_up_nobody_else",
    "test_hot_customer_has_no_deadlock_and_no_server_error",
    "test_long_queue_of_one_customer_does_not_starve_the_others",
    "test_one_hold_resolved_by_many_is_resolved_once",
    "test_refused_requests_cost_their_neighbours_nothing",
    "test_request_at_fault_fails_alone",
    "test_twenty_twins_in_one_process_are_one_effect",
    "test_two_processes_share_customers_without_deadlock_loss_or_double",
]

pytestmark = [
    pytest.mark.skipif(
        pgbouncer() is None, reason="pgbouncer is not installed (Debian: apt-get install pgbouncer)"
    ),
    pytest.mark.skipif(
        TEST_URL in os.environ, reason=f"{TEST_URL} is another server: start a pooler before that"
    ),
]


@pytest.fixture
async def database(databases: Databases) -> AsyncGenerator[Database]:
    """A database whose service login goes through the pooler; the books are proved at the end."""
    made = await databases.make()
    try:
        async with pooled(made.dsn) as dsn:
            yield replace(made, dsn=dsn)
        async with connected(made.dsn) as conn:
            assert await prove(conn, chain=True) == []
    finally:
        await databases.drop(made)


@pytest.fixture
async def pool(database: Database) -> AsyncGenerator[Pool]:
    opened = await open_pool(database.dsn, size=POOL_SIZE)
    yield opened
    await opened.close()


async def test_pooler_is_noticed(database: Database) -> None:
    assert await behind_pooler(database.dsn)
