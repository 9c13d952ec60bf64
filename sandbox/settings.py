"""What an account at Stripe can be set to, as far as it changes what happens here."""

from typing import Literal

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Stripe does not publish all of these; the defaults are what its documents suggest."""

    finalize_seconds: int = 3_600
    """From a renewal's draft invoice to its finalisation."""
    dunning_days: tuple[int, ...] = (3, 5, 7)
    """From a failed payment of an invoice to each further try, counted from the try before."""
    dunning_end: Literal["canceled", "unpaid", "past_due"] = "canceled"
    upcoming_days: int = 7
    """Before a renewal, `invoice.upcoming` is sent."""
    trial_notice_days: int = 3
    delayed_days: int = 4
    """How long a bank debit is in processing."""
    refund_days: int = 1
    """Until the refund of a test card for pending or failing refunds takes its course."""
    automatic_tax_percent: float = 20.0
    webhook_retry_seconds: tuple[int, ...] = (60, 3_600)
    """From each failed delivery to the next one; with the first, three tries."""
    meter_report_seconds: int = 10
    """What was wrong with meter events of a stream is reported for windows of this length."""
