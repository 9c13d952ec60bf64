"""Whose the money of an invoice is that pays several purchases. Pure.

A refund that was asked for a purchase is that purchase's. Every other refund, and each dispute, is
shared in proportion to what each line has left of its payment; the months of one line give back
the last month first, so that what was used stays paid for. Every sum is shared exactly.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby

from msgspec import structs

from meter.plan_lines import Allotment, split
from meter.stripe_port import DisputeState, InvoiceState, Payment, RefundState

GONE_REFUND = "succeeded"
GONE_DISPUTE = "lost"
NEVER = frozenset({"failed", "canceled"})
"""Refunds that nothing came of: they take nobody's place."""


def shares_of(
    invoice: InvoiceState, given: Sequence[Allotment], asked: Mapping[str, int]
) -> list[Payment]:
    """The money of each purchase of an invoice, as if it had been paid alone.

    `asked`: the place of the purchase that one of our calls asked a refund for.
    """
    refunds = [refund for paid in invoice.payments for refund in paid.refunds]
    disputes = [dispute for paid in invoice.payments for dispute in paid.disputes]
    spread = _Spread(invoice, given)
    parts: dict[str, list[int]] = {}
    own = [one for one in refunds if (one.call or "") in asked]
    for refund in own:
        parts[refund.refund_id] = spread.to(asked[refund.call or ""], refund)
    for one in sorted((*(r for r in refunds if r not in own), *disputes), key=_when):
        parts[_id(one)] = spread.over(one)
    fees = _shared(invoice, given, sum(paid.fee for paid in invoice.payments))
    return [
        Payment(
            object_ids=(),
            marks={},
            status="paid",
            currency=invoice.currency,
            captured=one.captured,
            tax=one.tax,
            fee=fees[place],
            refunds=tuple(
                structs.replace(refund, amount=parts[refund.refund_id][place]) for refund in refunds
            ),
            disputes=tuple(_part(one, parts[one.dispute_id], place) for one in disputes),
            is_suspected=any(paid.is_suspected for paid in invoice.payments),
        )
        for place, one in enumerate(given)
    ]


def _id(one: RefundState | DisputeState) -> str:
    return one.refund_id if isinstance(one, RefundState) else one.dispute_id


def _when(one: RefundState | DisputeState) -> tuple[bool, str]:
    """What is gone for good goes first: what is still open is then in what is left."""
    is_gone = one.status == (GONE_REFUND if isinstance(one, RefundState) else GONE_DISPUTE)
    return not is_gone, _id(one)


def _shared(invoice: InvoiceState, given: Sequence[Allotment], amount: int) -> list[int]:
    """In proportion to what was paid; the last weight is of what gives no credits."""
    paid = [one.captured for one in given]
    rest = max(0, invoice.amount_paid - sum(paid))
    return split(amount, [*paid, rest])[:-1] if invoice.amount_paid else [0] * len(given)


def _part(dispute: DisputeState, parts: Sequence[int], place: int) -> DisputeState:
    """One purchase's part of a dispute; what gives no credits has the rest."""
    weights = [*parts, max(0, dispute.amount - sum(parts))]
    return structs.replace(
        dispute,
        amount=parts[place],
        withdrawn=split(dispute.withdrawn, weights)[place],
        fee=split(dispute.fee, weights)[place],
    )


class _Spread:
    """What each purchase has left of what was paid, while sums are taken from it."""

    def __init__(self, invoice: InvoiceState, given: Sequence[Allotment]) -> None:
        self.left = [one.captured for one in given]
        self.rest = max(0, invoice.amount_paid - sum(self.left))
        """Of lines that give no credits."""
        places = enumerate(given)
        self.lines = [
            [place for place, _ in group] for _, group in groupby(places, lambda one: one[1].line)
        ]

    def to(self, place: int, one: RefundState) -> list[int]:
        """All of it is of one purchase."""
        parts = [0] * len(self.left)
        parts[place] = one.amount
        if one.status not in NEVER:
            self.left[place] = max(0, self.left[place] - one.amount)
        return parts

    def over(self, one: RefundState | DisputeState) -> list[int]:
        """Of each line its share of what is left: all of it, where all that is left goes."""
        weights = [sum(self.left[place] for place in line) for line in self.lines]
        *shares, of_rest = split(one.amount, [*weights, self.rest])
        parts = [0] * len(self.left)
        for line, amount in zip(self.lines, shares, strict=True):
            for place in reversed(line):
                parts[place] = min(amount, self.left[place])
                amount -= parts[place]
            parts[line[0]] += amount  # more than was paid: a loss of money alone
        if isinstance(one, DisputeState) or one.status not in NEVER:
            self.left = [max(0, left - part) for left, part in zip(self.left, parts, strict=True)]
            self.rest = max(0, self.rest - of_rest)
        return parts
