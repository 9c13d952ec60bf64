"""A route and one call of it: what every handler gets, and what it gives back."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct, field

from meter.auth import Key
from meter.parse import Body

if TYPE_CHECKING:
    from meter.service import Service

BODY_MAX: Final = 1024 * 1024
BATCH_BODY_MAX: Final = 10 * 1024 * 1024


class Reply(Struct, frozen=True):
    """An answer as bytes: JSON unless a header says otherwise, a problem if it is 4xx or 5xx."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    code: str | None = None
    """The problem code of a refusal, for counting."""
    stream: AsyncGenerator[bytes] | None = None
    """What follows `body`, if it is too long to be held."""


class Call(Struct, eq=False):
    """One request as it reached its route, authenticated and in scope."""

    service: "Service"
    key: Key
    ids: Sequence[str]
    """Path parameters, in order."""
    query: Mapping[str, str]
    raw: bytes
    idempotency_key: str | None
    request_id: str
    trace_id: str | None
    body: Body | None = None
    headers: Mapping[bytes, bytes] = {}


Handler = Callable[[Call], Awaitable[Reply]]


class Query(Struct, frozen=True):
    """A query parameter, for the reference and for refusing unknown ones."""

    name: str
    meaning: str
    schema: dict[str, Any] = field(default_factory=lambda: {"type": "string"})
    is_required: bool = False


class Route(Struct, frozen=True, kw_only=True):
    """One operation of the public surface. The reference is made from these."""

    method: str
    path: str
    """With parameters in braces, such as `/v1/holds/{hold_id}`."""
    operation: str
    """Unique; also what idempotency keys compare as the operation's name."""
    summary: str
    scope: str | None
    handler: Handler
    tag: str
    body: type | None = None
    answers: dict[int, Any]
    """Status → type of the answer (None: no body; a tuple: one of these)."""
    errors: tuple[str, ...] = ()
    """Problem codes beyond those that every route may give."""
    query: tuple[Query, ...] = ()
    needs_key: bool = False
    """Whether `Idempotency-Key` is required."""
    takes_key: bool = False
    body_max: int = BODY_MAX
    reads_body: bool = False
    """The handler reads `raw` itself, by the headers: of any content type, and maybe gzipped."""
    media: tuple[str, ...] = ()
    """Further content types of the body, for the reference."""
    produces: tuple[str, ...] = ()
    """Content types of a 200 that is a file, for the reference."""
    items: str | None = None
    """Pointer of a list in the body whose items are judged one by one."""
    example: dict[str, Any] | None = None
    """A request body that works."""
