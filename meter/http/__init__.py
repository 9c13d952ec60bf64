"""The routes: one module per noun, each a list of `Route` over thin handlers."""

from typing import Final

from meter.http import customers, hot, operate
from meter.route import Route

ROUTES: Final[tuple[Route, ...]] = (*hot.ROUTES, *customers.ROUTES, *operate.ROUTES)
