"""The rate limit: a burst, then a steady rate, for each key alone."""

from dataclasses import dataclass

import pytest

from meter import limits
from meter.limits import KEYS_MAX, Limiter
from meter.problems import ProblemError


@dataclass(frozen=True)
class Numbered:
    key_no: int


ALICE, BOB = Numbered(1), Numbered(2)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(limits, "monotonic", made)
    return made


def told(limiter: Limiter, key: Numbered) -> str:
    """What the header RateLimit says of one more request; `refused` for a 429."""
    try:
        headers = dict(limiter.spend(key))
    except ProblemError as error:
        return "refused" if (error.status, error.code) == (429, "rate_limited") else str(error)
    return headers[b"ratelimit"].decode()


def test_no_limit_has_no_headers() -> None:
    limiter = Limiter(None)
    assert [limiter.spend(ALICE) for _ in range(1_000)] == [()] * 1_000


def test_burst_then_refused_then_one_by_one(clock: Clock) -> None:
    limiter = Limiter((3, 60))
    assert [told(limiter, ALICE) for _ in range(4)] == [
        '"key";r=2;t=20',
        '"key";r=1;t=40',
        '"key";r=0;t=60',
        "refused",
    ]
    clock.now += 19.9
    assert told(limiter, ALICE) == "refused"
    clock.now += 0.1
    assert told(limiter, ALICE) == '"key";r=0;t=60'
    assert told(limiter, ALICE) == "refused"
    clock.now += 600
    assert told(limiter, ALICE) == '"key";r=2;t=20'


def test_refusal_says_when_to_come_back(clock: Clock) -> None:
    limiter = Limiter((2, 60))
    limiter.spend(ALICE)
    limiter.spend(ALICE)
    clock.now += 10.5
    with pytest.raises(ProblemError) as caught:
        limiter.spend(ALICE)
    headers = dict(caught.value.raw_headers())
    assert headers[b"retry-after"] == b"20"
    assert headers[b"ratelimit-policy"] == b'"key";q=2;w=60'
    assert headers[b"ratelimit"] == b'"key";r=0;t=50'
    clock.now += 20
    assert told(limiter, ALICE) != "refused"


def test_keys_do_not_share(clock: Clock) -> None:
    limiter = Limiter((1, 60))
    assert told(limiter, ALICE) != "refused"
    assert told(limiter, ALICE) == "refused"
    assert told(limiter, BOB) != "refused"


@pytest.mark.parametrize("limit", [(7, 3), (100, 1), (3, 86_400), (1_000_000, 1)])
def test_whole_burst_is_let_through_whatever_floats_do(
    limit: tuple[int, int], clock: Clock
) -> None:
    limiter = Limiter(limit)
    for _ in range(min(limit[0], 5_000)):
        limiter.spend(ALICE)
    if limit[0] <= 5_000:
        assert told(limiter, ALICE) == "refused"


def test_full_buckets_are_forgotten(clock: Clock) -> None:
    limiter = Limiter((1, 10))
    for number in range(KEYS_MAX):
        limiter.spend(Numbered(number))
    clock.now += 5
    limiter.spend(Numbered(-1))
    assert told(limiter, Numbered(0)) == "refused"
    clock.now += 6
    for number in range(KEYS_MAX):
        limiter.spend(Numbered(number))
    assert told(limiter, Numbered(0)) == "refused"
