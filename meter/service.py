"""One running service: its pool, its batcher, its keys, and what it remembers of the database."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any, Final, Literal, Protocol, TypeVar
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct

from ledger import customers
from ledger.answers import Problem
from ledger.bought import Clawback
from ledger.customers import Installation
from ledger.load import ScaleChanged, TooMuch
from ledger.outcome import Outcome
from ledger.rated import CatalogChanged
from ledger.requests import CorrectEvent, Request, Settle
from ledger.state import Settings
from ledger.transact import Result, transact
from meter import catalog, parse
from meter.auth import Keys
from meter.catalog import Catalog
from meter.charging import Pricer
from meter.clock_walk import ClockWalk, Companion
from meter.corrections import Correction
from meter.directory import Directory
from meter.events import Fact
from meter.facts import EventFacts
from meter.hot_path import RETRIES_MAX, Batcher
from meter.intake import Intake
from meter.late_items import GATHER
from meter.observe import Metrics
from meter.problems import ProblemError, fault, problem_body
from meter.report_pieces import CONFIRM_AFTER
from meter.route import Call
from meter.stripe_port import StripeConfig, StripePort
from sql import queries
from sql.errors import TransactionConflict
from sql.pool import Connection, Pool, transaction

T = TypeVar("T")

SETTLE_CHUNK: Final = 200
SETTLE_ROUNDS_MAX: Final = 100
USAGE_JOBS: Final = ("report_usage", "confirm_usage")
"""What is run in a sandbox as its clock is moved, each where it has something to do."""
NEWS_JOBS: Final = "stripe_"
"""How the names of the jobs begin that exchange news with Stripe."""
LISTING_JOB: Final = "stripe_sweep"
LISTED_EVERY: Final = timedelta(minutes=10)
"""How often that one reads Stripe's lists; the others go with every instant."""

REPORTS_AT_ONCE_MAX: Final = 2
"""Of one process: each holds a connection and a snapshot for as long as its reader takes."""

_encode = msgspec.json.Encoder().encode
LateUsage = Literal["write_off", "next_invoice"]


class Config(Struct, frozen=True, kw_only=True):
    """What the composition decides from the settings."""

    create_customers: bool = False
    signup_amount: int | None = None
    signup_expires_in: int | None = None
    signup_priority: int = 50
    clawback: Clawback = "owe"
    hold_lifetime_max: timedelta = timedelta(days=7)
    queue_max: int = 10_000
    queue_seconds_max: float = 5.0
    rate_limit: tuple[int, int] | None = None
    cors_origins: tuple[str, ...] = ()
    is_sandbox: bool = False
    books_time_zone: ZoneInfo = ZoneInfo("UTC")
    event_retention: timedelta = timedelta(days=400)
    late_grace: timedelta = timedelta(minutes=5)
    """How long after its end a window is closed for pricing: events arrive late."""
    late_usage: LateUsage = "write_off"
    """What becomes of usage that is known after its invoice was final."""
    stripe: StripeConfig | None = None
    """None: nothing is sold through Stripe."""
    past_due_grace: timedelta = timedelta(0)
    """How long after its period began a subscription that is not paid still gives access."""
    usage_stream: bool = False
    """Whether usage is told to Stripe by its stream, and not piece by piece."""
    freeze_on_fraud_warning: bool = False
    """Whether an early fraud warning freezes what is left of its purchase."""
    portal_cancel: bool = True
    """Whether customers may end their subscription, with its period, on Stripe's page."""
    metrics_open: bool = True
    """Whether /metrics is answered on the main port."""


class JobsPort(Protocol):
    """The jobs, as far as the routes need them; the composition puts them in."""

    def names(self) -> Sequence[str]: ...
    async def timetable(self) -> Sequence[Struct]: ...
    async def run(self, name: str) -> Struct | None: ...
    async def pause(self, name: str, *, resume: bool = False) -> Struct | None: ...


def render(request: Request, outcome: Outcome) -> bytes:
    """The body of an answer or a refusal."""
    answer = outcome.answer
    if isinstance(answer, Problem):
        return problem_body(
            outcome.status,
            answer.code,
            answer.detail,
            request_id=request.request_id,
            pointer=answer.pointer,
            facts=answer.facts,
        )
    return _encode(answer)


class Service:
    """Made by `start`, ended by `close`. Everything the routes need."""

    def __init__(
        self, pool: Pool, config: Config, installation: Installation, metrics: Metrics
    ) -> None:
        self.pool, self.config, self.installation = pool, config, installation
        self.reports_pool = pool
        """Where reports are read: the composition may put a copy of the database in."""
        self.report_slots = asyncio.Semaphore(REPORTS_AT_ONCE_MAX)
        self.metrics = metrics
        self.jobs: JobsPort | None = None
        self.stripe: StripePort | None = None
        self.companion: Companion | None = None
        self._listed_at: datetime | None = None
        """Who lives by our clock, in a sandbox."""
        self._clock_lock = asyncio.Lock()
        self.is_draining = False
        self.keys = Keys(pool)
        self.directory = Directory(pool, signup_due=config.signup_amount is not None)
        self.catalog: Catalog = catalog.EMPTY
        self._assets: dict[str, customers.AssetAnswer] = {}
        self._assets_at = 0.0
        self.facts = EventFacts(lambda: self.catalog)
        self._assets_lock = asyncio.Lock()
        zone = config.books_time_zone
        self._zone = UTC if zone.key == "UTC" else zone
        self._settings = Settings(scales={}, books_time_zone=self._zone)
        self.batcher = Batcher(
            pool,
            render,
            self.settings,
            metrics,
            queue_max=config.queue_max,
            queue_seconds_max=config.queue_seconds_max,
            refresh=self.refresh,
            facts=self.facts,
        )
        self.intake = Intake(
            pool,
            lambda: self.catalog,
            self.refresh,
            metrics,
            queue_max=config.queue_max,
            queue_seconds_max=config.queue_seconds_max,
        )

    @classmethod
    async def start(cls, pool: Pool, config: Config, metrics: Metrics | None = None) -> "Service":
        """Read what the database fixes. Its `installation` row must exist."""
        async with transaction(pool) as conn:
            installation = await customers.installation(conn)
        assert installation is not None, "the composition makes the installation first"
        service = cls(pool, config, installation, metrics or Metrics())
        await service.refresh()
        return service

    async def close(self) -> None:
        """Answer what is queued and stop. The pool belongs to the caller."""
        await self.batcher.close()
        await self.intake.close()
        await self.keys.close()
        await self.directory.close()

    @property
    def installation_id(self) -> str:
        """Of this database, for ever."""
        return self.installation.installation_id

    def drain(self) -> None:
        """From now on not ready: load balancers look elsewhere, requests are still answered."""
        self.is_draining = True

    def settings(self) -> Settings:
        return self._settings

    async def refresh(self) -> None:
        """Read assets, meters and rate cards again: somebody changed them."""
        began = monotonic()
        async with transaction(self.pool) as conn:
            self.catalog = await catalog.read(conn)
            assets = await customers.assets(conn)
        config = self.config
        scales = {asset.code: asset.scale for asset in assets}
        self._assets_at = began
        self._assets = {asset.code: asset for asset in assets}
        self._settings = Settings(
            scales=scales,
            books_time_zone=self._zone,
            pricing=Pricer(self.catalog, scales),
            clawback=config.clawback,
            hold_lifetime_max=config.hold_lifetime_max,
            signup_amount=config.signup_amount,
            signup_expires_in=config.signup_expires_in,
            signup_priority=config.signup_priority,
        )

    async def asset_scale(self, code: str, pointer: str = "/asset") -> int:
        """`credit_scale`, of an asset too that another process has made meanwhile."""
        if code not in self._assets:
            asked = monotonic()
            async with self._assets_lock:
                # Who waited behind a reading that began later has its answer.
                if self._assets_at < asked:
                    await self.refresh()
        return self.credit_scale(code, pointer)

    async def has_rate_card(self, key: str) -> bool:
        """Whether a rate card was published, by another process too."""
        if key not in self.catalog.cards:
            await self.refresh()
        return key in self.catalog.cards

    def credit_scale(self, code: str, pointer: str = "/asset") -> int:
        """The scale of a credit asset; 422 for an unknown one or a currency."""
        asset = self._assets.get(code)
        if asset is None or asset.is_money:
            raise ProblemError(
                422,
                "invalid_asset",
                "This is not an asset of credits: GET /v1/assets lists them, PUT /v1/assets/{code} "
                "makes one.",
                pointer=pointer,
            )
        return asset.scale

    def money_scale(self, code: str, pointer: str) -> int:
        """The scale of a currency; 422 for anything else."""
        asset = self._assets.get(code)
        if asset is None or not asset.is_money:
            raise ProblemError(
                422,
                "invalid_currency",
                "currency is an ISO 4217 code in upper case, such as USD.",
                pointer=pointer,
            )
        return asset.scale

    async def customer_no(
        self, call: Call, customer_id: str, *, makes: bool = False, pointer: str = "/customer_id"
    ) -> int:
        """Our number of a customer the key may see. 404 otherwise, unless `makes` may create it."""
        key = call.key
        if key.customer_no is not None:
            if key.customer_id != customer_id:
                raise customer_missing()
            return key.customer_no
        number = self.directory.known(customer_id)
        if number is None:
            parse.customer_id(customer_id, pointer)
            may_make = makes and self.config.create_customers
            number = await self.directory.find(customer_id, makes=may_make)
        if number is None:
            raise customer_missing()
        return number

    async def decided_in(self, conn: Connection, request: Request) -> Result:
        """Decide one request in the caller's transaction: an answer or a refusal."""
        try:
            results = await transact(
                conn, [request], self.settings(), render, wait=True, facts=self.facts
            )
        except TooMuch as error:
            raise fault("too_many_lots") from error
        result = results[0]
        assert result is not None, "waited for the lock"
        return result

    async def decide_in(self, conn: Connection, request: Request) -> Result:
        """The same; a refusal is raised."""
        result = await self.decided_in(conn, request)
        if result.status >= 400:
            refusal: dict[str, Any] = msgspec.json.decode(result.body)
            raise ProblemError(result.status, refusal["code"], refusal["detail"])
        return result

    async def follow(self, conn: Connection, correction: Correction, event: Fact) -> None:
        """What the event was charged follows its correction, in the correction's transaction."""
        request = CorrectEvent(
            customer_no=event.customer_no,
            operation="correct_event",
            source=event.source,
            event_id=event.id,
            at=event.time,
        )
        await self.decide_in(conn, request)

    async def retried(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run a transaction again after what wrote nothing: a conflict, or what was not known."""
        for attempt in range(1, RETRIES_MAX + 1):
            try:
                return await work()
            except (ScaleChanged, CatalogChanged):
                await self.refresh()
                if attempt == RETRIES_MAX:
                    raise TransactionConflict("the catalog keeps changing") from None
            except TransactionConflict:
                self.metrics.retried("conflict")
                if attempt == RETRIES_MAX:
                    raise
                await asyncio.sleep(0.005 * 2**attempt * random.uniform(0.5, 1.0))
        raise AssertionError("bounded")

    async def settle_due(self) -> dict[str, int]:
        """Post what time has done to customers that nobody asks about. Bounded; counts."""
        settled = 0
        for _ in range(SETTLE_ROUNDS_MAX):
            async with transaction(self.pool) as conn:
                due = await conn.fetch(queries.customers_due, SETTLE_CHUNK)
            waiting = [
                self.batcher.submit(
                    Settle(customer_no=row[0], operation="settle", request_id="sweep")
                )
                for row in due
            ]
            results = await asyncio.gather(*waiting)
            done = sum(result.status == 200 for result in results)
            settled += done
            # Busy: more steps are due than one request posts, so there is more to do.
            busy = sum(result.code == "busy" for result in results)
            if busy == 0 and (done == 0 or len(due) < SETTLE_CHUNK):
                break
        return {"customers": settled}

    async def advance_clock(self, *, by: timedelta | None, to: datetime | None) -> tuple[Any, int]:
        """Move the sandbox's clock from due instant to due instant; (now, steps). See `api.md`."""
        async with self._clock_lock:
            async with transaction(self.pool) as conn:
                now = await customers.now(conn)
            target = to if to is not None else now + (by or timedelta())
            if target < now:
                raise ProblemError(
                    422, "invalid_to", f"The clock never goes back: it is {now.isoformat()}."
                )
            if target - now > timedelta(days=400):
                raise ProblemError(422, "invalid_to", "At most 400 days in one call.")
            walk = ClockWalk(
                self.pool, self.settle_due, self.companion, self._take_news, self._reports_due
            )
            steps = await walk.to(now, target)
            async with transaction(self.pool) as conn:
                now = await customers.now(conn)
        self.keys.forget()  # some may have expired meanwhile
        return now, steps

    async def _take_news(self) -> None:
        """Run every job that exchanges news with Stripe. One that fails is in its own record."""
        if self.jobs is None:
            return
        async with transaction(self.pool) as conn:
            now = await customers.now(conn)
        is_listed = self._listed_at is not None and now - self._listed_at < LISTED_EVERY
        for name in self.jobs.names():
            if name.startswith(NEWS_JOBS) and not (is_listed and name == LISTING_JOB):
                await self.jobs.run(name)
        if not is_listed:
            self._listed_at = now
        async with transaction(self.pool) as conn:
            work = await conn.fetchrow(
                queries.report_work, now, self.config.late_grace, CONFIRM_AFTER
            )
        for name, is_due in zip(USAGE_JOBS, work or (), strict=False):
            if is_due and name in self.jobs.names():
                await self.jobs.run(name)

    async def _reports_due(self, now: datetime) -> datetime | None:
        """When usage is to be told, or compared, next."""
        async with transaction(self.pool) as conn:
            return await conn.fetchval(
                queries.report_due_next, now, self.config.late_grace, CONFIRM_AFTER, GATHER
            )


def refused(outcome: Outcome) -> ProblemError:
    """A refusal of the books outside of a batch, to be raised."""
    problem = outcome.answer
    assert isinstance(problem, Problem)
    return ProblemError(
        outcome.status,
        problem.code,
        problem.detail,
        pointer=problem.pointer,
        facts=problem.facts,
    )


def customer_missing() -> ProblemError:
    return ProblemError(
        404, "customer_not_found", "No such customer. PUT /v1/customers/{customer_id} makes one."
    )
