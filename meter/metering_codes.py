"""The problem codes of events, meters, usage and prices: a part of the public list in `codes`."""

from collections.abc import Mapping
from typing import Final

from meter.code import Code

METERING_CODES: Final[Mapping[str, Code]] = {
    "meter_not_found": Code(
        (404,), "Meter not found", "No meter has this key.", "See `GET /v1/meters`."
    ),
    "event_not_found": Code(
        (404,),
        "Event not found",
        "No event of this customer has this source and id.",
        "Check them. Of an event that came long ago, send its `time` too.",
    ),
    "event_conflict": Code(
        (409,),
        "Event conflict",
        "The same source and id (or correction_id) came before with other content. Nothing "
        "changed.",
        "Give a new event a new id. To change what was sent, correct it.",
    ),
    "event_cancelled": Code(
        (409,),
        "Event cancelled",
        "The event was cancelled, which is final.",
        "Send what is right as a new event.",
    ),
    "event_already_charged": Code(
        (409,),
        "Event already charged",
        "The fact was charged for this meter before, by a call or from its event. `charge_id` is "
        "that charge. Nothing was taken again.",
        "Nothing: it is charged.",
    ),
    "meter_in_use": Code(
        (409,),
        "Meter in use",
        "The meter has counted events, so what decides its readings can't change any more.",
        "Make another meter; `drawdown usage rebuild` lets it count the past.",
    ),
    "too_many_meters": Code(
        (409,),
        "Too many meters",
        "There are as many meters as there can be.",
        "Use dimensions (`group_by`) instead of a meter for each case.",
    ),
    "invalid_time": Code(
        (422,),
        "Invalid event time",
        "The event's time lies too far back or ahead.",
        "Send usage within 35 days, and check the sender's clock.",
    ),
    "unreadable_event": Code(
        (422,),
        "Event can't be read",
        "Meters count events of this type, and none of them can read this one. It was not "
        "recorded.",
        "Send what `detail` says that the meter expects.",
    ),
    "rate_card_not_found": Code(
        (404,),
        "Rate card not found",
        "No rate card, or no version of it, was published so.",
        "See `GET /v1/rate-cards`.",
    ),
    "no_rate": Code(
        (422,),
        "No rate",
        "The usage has no price: `missing` says whether there is no such `rate_card`, no `version` "
        "of it in force at the time of the usage, or no `rate` for the meter and its dimensions.",
        "Publish what is missing with `POST /v1/rate-cards`; `POST /v1/quote` tries it out.",
    ),
    "invalid_usage": Code(
        (422,),
        "Invalid usage",
        "An item of `usage` names a meter that is not there or not charged by calls, a dimension "
        "that it is not grouped by, or half of an event's name; or stands beside an amount.",
        "`GET /v1/meters` shows what each meter counts.",
    ),
    "invalid_quantity": Code(
        (422,),
        "Invalid quantity",
        "The quantity is not a whole number or a plain decimal string, 0 or more.",
        'Send `1200` or `"0.25"`: no sign, no exponent, at most 18 decimals.',
    ),
    "invalid_rate": Code(
        (422,),
        "Invalid rate",
        "A rate names a meter that is not there, a dimension that it is not grouped by, or prices "
        "that make no sense together.",
        "Correct the place that the pointer names.",
    ),
    "ambiguous_rates": Code(
        (422,),
        "Ambiguous rates",
        "Two rates of one meter can match the same usage, and neither is the narrower.",
        "Add a rate for exactly what both match, or change one of them.",
    ),
    "invalid_replay": Code(
        (422,),
        "Invalid replay",
        "The window is none, too long, or holds too much of one customer; or the body names both "
        "rates and a version, or neither.",
        "Correct the place that the pointer names.",
    ),
    "invalid_rate_card": Code(
        (422,),
        "Invalid rate card",
        "The key of the rate card is not one, or no card of this key was published.",
        "`GET /v1/rate-cards` lists them.",
    ),
    "invalid_effective_at": Code(
        (422,),
        "Invalid effective_at",
        "The time lies in the future, or further back than is allowed.",
        "Send a time within the bounds that `detail` names.",
    ),
}
