"""The linearizability checker finds what it must find, and nothing else."""

from dataclasses import replace

from tests.property.linear import Call, Seen, explain


def granted(amount: int, posted: int, started: int, returned: int, key: str = "g") -> Call:
    seen = Seen(201, balance=(posted, 0, posted), raw=key.encode())
    return Call("grant", key, started, returned, seen, amount)


def read(posted: int, started: int, returned: int) -> Call:
    return Call("read", f"r{started}", started, returned, Seen(200, balance=(posted, 0, posted)))


def test_calls_in_a_row_are_explained() -> None:
    assert explain([read(0, 1, 2), granted(5, 5, 3, 4), read(5, 5, 6)]) is None


def test_overlapping_calls_may_take_effect_either_way() -> None:
    assert explain([granted(5, 5, 1, 4), read(0, 2, 3)]) is None
    assert explain([granted(5, 5, 1, 4), read(5, 2, 3)]) is None
    assert explain([granted(5, 12, 1, 4), granted(7, 7, 2, 3, "h")]) is None


def test_stale_read_is_found() -> None:
    assert explain([granted(5, 5, 1, 2), read(0, 3, 4)]) is not None


def test_lost_update_is_found() -> None:
    assert explain([granted(5, 5, 1, 4), granted(7, 7, 2, 3, "h")]) is not None


def test_effect_seen_then_unseen_is_found() -> None:
    calls = [granted(5, 5, 1, 9), read(5, 2, 3), read(0, 4, 5)]
    assert explain(calls) is not None


def test_same_credit_reserved_twice_is_found() -> None:
    first = Seen(201, hold="h1", state=("open", 0, 5), balance=(5, 5, 0), raw=b"1")
    calls = [
        granted(5, 5, 1, 2),
        Call("reserve", "a", 3, 6, first, 5),
        Call("reserve", "b", 4, 5, replace(first, hold="h2", raw=b"2"), 5),
    ]
    assert explain(calls) is not None


def test_twin_without_the_mark_of_a_replay_is_found() -> None:
    once, twin = granted(5, 5, 1, 4), granted(5, 10, 2, 3)
    assert explain([once, twin]) is not None
    replayed = replace(twin, seen=replace(once.seen, is_replayed=True))
    assert explain([once, replayed]) is None
