"""The problem codes of events, meters and usage: a part of the public list in `codes`."""

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
}
