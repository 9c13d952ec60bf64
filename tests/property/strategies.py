"""Random acts. Amounts are small and times come from few values, so that things meet."""

from hypothesis import strategies as st

from tests.property.world import (
    Act,
    Capture,
    Consume,
    Extend,
    Grant,
    Overage,
    Reserve,
    Reverse,
    Settle,
    Void,
    VoidGrant,
    Wait,
)

HOUR, DAY = 3_600, 86_400

amounts = st.integers(1, 40)
places = st.integers(0, 5)
ends = st.sampled_from([None, None, 1, 600, HOUR, DAY, 20 * DAY])

plain_grants = st.builds(
    Grant,
    amount=st.integers(5, 60),
    paid=st.booleans(),
    priority=st.sampled_from([50, 50, 10]),
    starts=st.sampled_from([None, None, None, -DAY, HOUR, DAY]),
    ends=ends,
)
series = st.builds(
    Grant,
    amount=st.integers(5, 30),
    paid=st.booleans(),
    priority=st.sampled_from([50, 10]),
    starts=st.sampled_from([None, -3 * DAY, HOUR]),
    ends=st.sampled_from([None, 20 * DAY]),
    every=st.sampled_from(["day", "week", "month"]),
    rollover=st.sampled_from([None, 5, 100]),
    rollover_seconds=st.sampled_from([None, DAY, 20 * DAY]),
)
reserves = st.builds(
    Reserve,
    amount=amounts,
    minimum=st.none() | st.integers(1, 10),
    seconds=st.sampled_from([1, 600, HOUR, DAY]),
)
captures = st.builds(
    Capture,
    hold=places,
    amount=st.none() | st.integers(0, 20),
    final=st.booleans(),
    take=st.booleans(),
)
late_captures = st.builds(
    Capture,
    hold=places,
    amount=st.integers(1, 40),
    final=st.booleans(),
    take=st.just(True),
    ago=st.sampled_from([1, HOUR, 5 * DAY]),
)
voids = st.builds(Void, hold=places)
extends = st.builds(
    Extend,
    hold=places,
    seconds=st.sampled_from([None, 600, DAY]),
    add=st.none() | st.integers(1, 15),
).filter(lambda act: act.seconds is not None or act.add is not None)
consumes = st.builds(Consume, amount=amounts)
late_consumes = st.builds(
    Consume, amount=amounts, ago=st.sampled_from([1, HOUR, DAY, 5 * DAY, 36 * DAY])
)
reverses = st.builds(Reverse, charge=places, amount=st.none() | st.integers(1, 10))
grant_voids = st.builds(VoidGrant, grant=places)
overages = st.builds(
    Overage,
    policy=st.sampled_from(["deny", "owe", "owe", "bill"]),
    limit=st.sampled_from([None, 0, 15, 60]),
)
waits = st.builds(
    Wait, seconds=st.sampled_from([0.000001, 1, 600, HOUR, DAY, 7 * DAY])
) | st.builds(Wait, due=st.sampled_from(["before", "at", "after"]))

acts: st.SearchStrategy[Act] = st.one_of(
    plain_grants,
    reserves,
    captures,
    consumes,
    waits,
    st.one_of(voids, extends, late_consumes, late_captures),
    st.one_of(series, reverses, grant_voids, overages, st.just(Settle())),
)


def _begun(first: Act, rest: list[Act]) -> list[Act]:
    return [first, *rest]


histories = st.builds(_begun, plain_grants, st.lists(acts, min_size=3, max_size=20))
