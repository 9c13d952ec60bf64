"""The routes: one module per noun, each a list of `Route` over thin handlers."""

from typing import Final

from meter.http import (
    access,
    batch,
    billing,
    cards,
    customers,
    events,
    hot,
    meters,
    operate,
    packs,
    periods,
    plans,
    portability,
    prices,
    purchases,
    reads,
    reports,
    rerates,
    subscriptions,
    usage_reports,
    webhook,
    why,
)
from meter.route import Route

ROUTES: Final[tuple[Route, ...]] = (
    *hot.ROUTES,
    *batch.ROUTES,
    *customers.ROUTES,
    *reads.ROUTES,
    *events.ROUTES,
    *meters.ROUTES,
    *prices.ROUTES,
    *rerates.ROUTES,
    *packs.ROUTES,
    *plans.ROUTES,
    *purchases.ROUTES,
    *subscriptions.ROUTES,
    *access.ROUTES,
    *cards.ROUTES,
    *billing.ROUTES,
    *usage_reports.ROUTES,
    *periods.ROUTES,
    *reports.ROUTES,
    *webhook.ROUTES,
    *why.ROUTES,
    *portability.ROUTES,
    *operate.ROUTES,
)
