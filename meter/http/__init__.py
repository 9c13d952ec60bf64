"""The routes: one module per noun, each a list of `Route` over thin handlers."""

from typing import Final

from meter.http import customers, hot, operate, reads
from meter.route import Route

ROUTES: Final[tuple[Route, ...]] = (
    *hot.ROUTES,
    *customers.ROUTES,
    *reads.ROUTES,
    *operate.ROUTES,
)
