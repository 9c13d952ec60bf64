"""The service on a socket, in this process, and a client that speaks for one API key."""

import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from itertools import count
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import jsonschema_rs
import msgspec
from multidict import CIMultiDictProxy
from yarl import URL

from jobs.runner import Runner
from jobs.schedule import TIMETABLE
from jobs.stripe_gateway import Gateway
from ledger import customers
from meter.app import create_app
from meter.auth import new_key
from meter.http import ROUTES
from meter.problems import CODES
from meter.server import Server
from meter.service import Config, Service
from sql.pool import Connection, Pool, transaction
from tests.servers import Database, connected

SANDBOX: Final = Config(is_sandbox=True)
STOP_SECONDS_MAX: Final = 10
PROBLEM: Final = "application/problem+json"

_keys = count(1)


def fresh_key() -> str:
    """An idempotency key that no other request of this run has."""
    return f"test-{next(_keys)}"


class Fresh:
    """Stands for a new idempotency key."""


FRESH: Final = Fresh()


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: CIMultiDictProxy[str]
    raw: bytes

    @cached_property
    def body(self) -> Any:
        return msgspec.json.decode(self.raw)

    @property
    def code(self) -> str | None:
        """The problem code; None if this is no problem."""
        is_problem = self.headers.get("content-type") == PROBLEM
        return self.body["code"] if is_problem else None

    @property
    def is_replayed(self) -> bool:
        return self.headers.get("idempotent-replayed") == "true"

    def __repr__(self) -> str:
        return f"<{self.status} {self.raw[:600]!r}>"


@dataclass
class Api:
    """The routes, as one API key sees them."""

    session: aiohttp.ClientSession
    url: str
    secret: str | None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    def of(self, secret: str | None) -> "Api":
        """The same service with another key, or with none."""
        return Api(self.session, self.url, secret)

    async def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        key: str | Fresh | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request. `path` is sent as it is; `raw` is a body as bytes, `body` one to encode."""
        sent = dict(self.headers)
        if self.secret is not None:
            sent["Authorization"] = f"Bearer {self.secret}"
        if key is not None:
            sent["Idempotency-Key"] = fresh_key() if isinstance(key, Fresh) else key
        if body is not None:
            raw = msgspec.json.encode(body)
        if raw is not None:
            sent["Content-Type"] = "application/json"
        sent.update(headers or {})
        async with self.session.request(
            method, URL(self.url + path, encoded=True), data=raw, headers=sent
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str) -> Answer:
        return await self.send("GET", path)

    async def post(self, path: str, body: Any = None, *, key: str | Fresh | None = FRESH) -> Answer:
        return await self.send("POST", path, {} if body is None else body, key=key)

    async def put(self, path: str, body: Any) -> Answer:
        return await self.send("PUT", path, body)

    async def delete(self, path: str) -> Answer:
        return await self.send("DELETE", path)

    # The words of the trade. All answers are asserted to be successes.

    async def customer(self, customer_id: str = "acme", **body: Any) -> Any:
        answer = await self.put(f"/v1/customers/{quote(customer_id, safe='')}", body)
        assert answer.status in (200, 201), answer
        return answer.body

    async def grant(self, amount: str, customer_id: str = "acme", **body: Any) -> Any:
        asked = {"customer_id": customer_id, "amount": amount, "category": "promotional", **body}
        answer = await self.post("/v1/grants", asked)
        assert answer.status == 201, answer
        return answer.body

    async def reserve(self, amount: str, customer_id: str = "acme", **body: Any) -> Any:
        answer = await self.post(
            "/v1/reserve", {"customer_id": customer_id, "amount": amount, **body}
        )
        assert answer.status == 201, answer
        return answer.body

    async def consume(self, amount: str, customer_id: str = "acme", **body: Any) -> Any:
        answer = await self.post(
            "/v1/consume", {"customer_id": customer_id, "amount": amount, **body}
        )
        assert answer.status == 201, answer
        return answer.body

    async def balance(self, customer_id: str = "acme", asset: str = "credits") -> Any:
        path = f"/v1/customers/{quote(customer_id, safe='')}/balance?asset={asset}"
        answer = await self.get(path)
        assert answer.status == 200, answer
        return answer.body

    async def posted(self, customer_id: str = "acme") -> tuple[str, str, str]:
        """The numbers of a balance that most tests ask for: posted, held, available."""
        found = await self.balance(customer_id)
        return found["posted"], found["held"], found["available"]

    async def key(self, *scopes: str, customer_id: str | None = None) -> "Api":
        """The same service with a new key."""
        body: dict[str, Any] = {"name": "test", "scopes": list(scopes)}
        if customer_id is not None:
            body["customer_id"] = customer_id
        answer = await self.post("/v1/keys", body, key=None)
        assert answer.status == 201, answer
        return self.of(answer.body["key"])

    async def token(self, customer_id: str, *scopes: str) -> "Api":
        """The same service with a short-lived token of a customer."""
        answer = await self.post(
            f"/v1/customers/{quote(customer_id, safe='')}/tokens",
            {"scopes": list(scopes), "expires_in": 3600},
            key=None,
        )
        assert answer.status == 201, answer
        return self.of(answer.body["token"])

    async def clock(self, to: datetime) -> datetime:
        """Move the sandbox's clock; the time it is then."""
        answer = await self.post("/v1/test-clock", {"to": wire_time(to)}, key=None)
        assert answer.status == 200, answer
        return datetime.fromisoformat(answer.body["now"])

    async def now(self) -> datetime:
        answer = await self.post("/v1/test-clock", {"advance": 0}, key=None)
        assert answer.status == 200, answer
        return datetime.fromisoformat(answer.body["now"])

    async def openapi(self) -> Any:
        return (await self.get("/openapi.json")).body


@dataclass(frozen=True)
class World:
    """A customer with one of everything, and what the parameters of paths may be."""

    customer_id: str
    ids: Mapping[str, str]

    def path(self, template: str, **other: str) -> str:
        """A path whose parameters name this customer's things, or `other` ones."""
        given = {**self.ids, **other}
        return re.sub(r"{(\w+)}", lambda match: quote(given[match[1]], safe=""), template)


METER: Final = next(r.example for r in ROUTES if r.operation == "put_meter")
"""The meter of the reference's example."""


async def furnish(api: Api, customer_id: str = "acme") -> World:
    """Make a customer who has something of every kind that a route can name."""
    await api.customer(customer_id, name=f"{customer_id} Ltd", email="books@example.com")
    grant = await api.grant("1000", customer_id)
    hold = await api.reserve("100", customer_id, reference="job-1")
    key = fresh_key()
    charge = await api.post("/v1/consume", {"customer_id": customer_id, "amount": "30"}, key=key)
    assert charge.status == 201, charge
    journals = await api.get(f"/v1/journals?customer_id={quote(customer_id, safe='')}&limit=1")
    await api.put("/v1/meters/tokens", METER)
    used = {"source": "chat", "id": "req-5500", "type": "llm.usage", "subject": customer_id}
    sent = await api.post("/v1/events", {**used, "data": {"input_tokens": 9}}, key=None)
    assert sent.status in (200, 202), sent
    spare = await api.post("/v1/keys", {"name": "spare", "scopes": ["usage:read"]}, key=None)
    ids = {
        "customer_id": customer_id,
        "grant_id": grant["id"],
        "hold_id": hold["id"],
        "charge_id": charge.body["id"],
        "journal_id": journals.body["data"][0]["id"],
        "key_id": spare.body["id"],
        "key": key,
        "code": "tokens",
        "report": "statement",
        "meter": "tokens",
        "rate_card": "default",
        "name": "sweep",
        "period": "2020-01",
    }
    return World(customer_id, ids)


@dataclass(frozen=True)
class Running:
    """A service that answers, and the client of its first key, which may do everything."""

    service: Service
    server: Server
    api: Api

    @property
    def port(self) -> int:
        return self.server.port


class Described:
    """What the OpenAPI document promises of each route; `check` holds an answer against it."""

    def __init__(self, document: Any) -> None:
        self.document = document
        self._validators: dict[str, jsonschema_rs.Validator] = {}

    @classmethod
    async def of(cls, api: Api) -> "Described":
        answer = await api.get("/openapi.json")
        assert answer.status == 200, answer
        return cls(answer.body)

    def operations(self) -> Iterator[tuple[str, str, Any]]:
        """Method, path template and description of every route."""
        for path, methods in self.document["paths"].items():
            for method, operation in methods.items():
                yield method.upper(), path, operation

    def check(self, method: str, path: str, answer: Answer) -> None:
        """Assert that status, type, problem code and every member are declared for the route."""
        responses = self.document["paths"][path][method.lower()]["responses"]
        told = (method, path, answer)
        declared = responses.get(str(answer.status))
        assert declared is not None, told
        kind = answer.headers["content-type"].partition(";")[0]
        assert kind in declared["content"], told
        if kind.endswith("json"):
            validator = self._validator(declared["content"][kind]["schema"])
            errors = [error.message for error in validator.iter_errors(answer.body)]
            assert errors == [], told
        if kind == PROBLEM:
            check_problem(answer)
            assert f"`{answer.code}`" in declared["description"], told

    def _validator(self, schema: Any) -> jsonschema_rs.Validator:
        name = repr(schema)
        if name not in self._validators:
            whole = {**schema, "components": self.document["components"]}
            self._validators[name] = jsonschema_rs.Draft202012Validator(whole)
        return self._validators[name]


def check_problem(answer: Answer) -> None:
    """Assert the form that every refusal has, whatever the route."""
    body = answer.body
    assert answer.headers["content-type"] == PROBLEM, answer
    assert body["status"] == answer.status, answer
    known = CODES[body["code"]]
    assert answer.status in known.statuses, answer
    assert (body["title"], body["retryable"]) == (known.title, known.retryable), answer
    assert body["type"].endswith(f"/{body['code']}"), answer
    assert body["detail"], answer
    assert body["request_id"], answer
    for error in body["errors"]:
        assert error.keys() == {"pointer", "code", "detail"}, answer
        assert error["pointer"] == "" or error["pointer"].startswith("/"), answer
    assert (answer.status in (429, 503)) == ("retry-after" in answer.headers), answer
    assert (answer.status == 401) == ("www-authenticate" in answer.headers), answer
    assert (answer.status == 405) == ("allow" in answer.headers), answer


@asynccontextmanager
async def session() -> AsyncGenerator[aiohttp.ClientSession]:
    """A client session without a limit of connections and with one of time."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        auto_decompress=False,
        headers={"Accept-Encoding": "identity"},
    ) as made:
        yield made


@asynccontextmanager
async def serving(
    pool: Pool, config: Config = SANDBOX, *, hot_first: bool = True, mode: str = "sandbox"
) -> AsyncGenerator[Running]:
    """Serve the database of `pool` on a free port of the loopback."""
    async with transaction(pool) as conn:
        await customers.make_installation(conn, mode=mode, books_time_zone="UTC")
        admin = await new_key(conn, name="admin", scopes=["admin"])
    service = await Service.start(pool, config)
    service.jobs = runner = Runner(service, TIMETABLE)
    if config.stripe is not None:
        service.stripe = Gateway(config.stripe)
    server = Server()
    await server.start(create_app(service, hot_first=hot_first), "127.0.0.1", 0)
    try:
        async with session() as client:
            api = Api(client, f"http://127.0.0.1:{server.port}", admin.key)
            yield Running(service, server, api)
    finally:
        await server.stop(STOP_SECONDS_MAX)
        await runner.stop()
        if service.stripe is not None:
            await service.stripe.close()
        await service.close()


async def set_clock(pool: Pool, at: datetime) -> None:
    """Let a sandbox that has nothing in it yet begin at `at`."""
    async with transaction(pool) as conn:
        await customers.make_installation(conn, mode="sandbox", books_time_zone="UTC")
        await conn.execute(
            "UPDATE installation SET clock_offset = $1::timestamptz - clock_timestamp()", at
        )


class FrozenClock:
    """The clock of one database, stopped: exactly the time that it was set to last."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._conn: Connection | None = None

    @asynccontextmanager
    async def stopped_at(self, at: datetime) -> AsyncGenerator[None]:
        async with connected(self._database.owner_dsn) as conn:
            self._conn = conn
            await conn.execute("CREATE TABLE stopped_clock (now timestamptz NOT NULL)")
            await conn.execute("INSERT INTO stopped_clock VALUES ($1)", at)
            await conn.execute("GRANT SELECT ON stopped_clock TO PUBLIC")
            await conn.execute(
                "CREATE OR REPLACE FUNCTION service_now_v1() RETURNS timestamptz "
                "LANGUAGE sql VOLATILE AS 'SELECT now FROM stopped_clock'"
            )
            yield

    async def set(self, at: datetime) -> None:
        assert self._conn is not None, "the clock is stopped first"
        await self._conn.execute("UPDATE stopped_clock SET now = $1", at)


def wire_time(at: datetime) -> str:
    """A time as the wire has it."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
