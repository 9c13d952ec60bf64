"""The public list of problem codes. `docs/reference/problems.md` is written from it."""

from collections.abc import Mapping
from typing import Final

from meter.code import Code
from meter.metering_codes import METERING_CODES
from meter.stripe_codes import STRIPE_CODES

__all__ = ["CODES", "Code"]

_NEVER_APPLIED = "Nothing was written: send the same request again after `Retry-After`."

CODES: Final[Mapping[str, Code]] = {
    # 400: the request can't be read
    "malformed": Code(
        (400,),
        "Request can't be read",
        "The body is no JSON object in UTF-8, or the HTTP around it is broken.",
        "Send one JSON object (RFC 8259) in UTF-8.",
    ),
    "invalid_cursor": Code(
        (400,),
        "Invalid cursor",
        "The cursor is not one that this server gave out for this list with these filters.",
        "Begin again without a cursor, or keep the filters that the cursor was made with.",
    ),
    "idempotency_key_missing": Code(
        (400,),
        "Idempotency key missing",
        "A request that changes books came without `Idempotency-Key` (in a batch: without `key`).",
        "Name the request: 1 to 255 printable ASCII characters, the same for every retry.",
    ),
    # 401, 403: who asks
    "unauthenticated": Code(
        (401,),
        "Not authenticated",
        "There is no API key in the request, or it is not one of this installation.",
        "Send `Authorization: Bearer ddk_…`.",
    ),
    "key_revoked": Code(
        (401,),
        "API key no longer valid",
        "The API key, or the key its token came from, was revoked or has expired.",
        "Use another key.",
    ),
    "scope_missing": Code(
        (403,),
        "Scope missing",
        "The API key may not do this.",
        "Use a key with the scope that `detail` names.",
    ),
    # 402
    "insufficient_credits": Code(
        (402,),
        "Insufficient credits",
        "The customer has less than the request needs, after its overage limit. Nothing was taken. "
        "`required`, `available`, `shortfall`, `balance` and, under an overage policy, "
        "`overage_reason` tell the numbers.",
        "Grant or sell credits, or ask for less, under a new idempotency key.",
    ),
    # 404
    "not_found": Code(
        (404,),
        "Not found",
        "There is nothing at this address, or it is not this key's to see.",
        "Check the address.",
    ),
    "customer_not_found": Code(
        (404,),
        "Customer not found",
        "No customer has this id, or it is not this key's to see.",
        "Make it with `PUT /v1/customers/{customer_id}`.",
    ),
    "hold_not_found": Code(
        (404,), "Hold not found", "No hold has this id.", "Use the `id` that reserve answered."
    ),
    "grant_not_found": Code(
        (404,), "Grant not found", "No grant has this id.", "Use the `id` that the grant answered."
    ),
    "charge_not_found": Code(
        (404,),
        "Charge not found",
        "No charge has this id.",
        "Use the `id` that capture or consume answered.",
    ),
    "journal_not_found": Code(
        (404,), "Journal not found", "No journal has this id.", "Use an `id` from a list."
    ),
    "key_not_found": Code(
        (404,), "API key not found", "No API key has this id.", "See `GET /v1/keys`."
    ),
    "job_not_found": Code((404,), "Job not found", "No job has this name.", "See `GET /v1/jobs`."),
    "report_not_found": Code(
        (404,), "Report not found", "There is no report of this name.", "The detail names them all."
    ),
    "period_not_found": Code(
        (404,),
        "Period not found",
        "This is not a month.",
        "Name it YYYY-MM, such as `2026-03`.",
    ),
    "period_not_ended": Code(
        (409,),
        "Period not ended",
        "Only a month that has ended in the books' time zone can be closed. Nothing was changed.",
        "Wait for its end.",
    ),
    "period_out_of_order": Code(
        (409,),
        "Period out of order",
        "Months are closed one after another. Nothing was changed.",
        "Close the month that `detail` names first.",
    ),
    "books_not_proved": Code(
        (409,),
        "Books not proved",
        "Something of the books is not explained; `detail` says what.",
        "Find out why (`drawdown verify`), or close the month with `force` and a `reason`.",
    ),
    "request_not_found": Code(
        (404,),
        "Request not found",
        "No request of this customer has this idempotency key. It may still be on its way.",
        "Send the request again with the same key: only that settles it.",
    ),
    # 405, 408, 413, 415, 429, 431: limits of HTTP
    "method_not_allowed": Code(
        (405,),
        "Method not allowed",
        "The address exists, the method does not.",
        "Use a method of the `Allow` header.",
    ),
    "request_timeout": Code(
        (408,),
        "Request not received in time",
        "The headers or the body did not arrive completely in time.",
        "Send the same request again.",
        retryable=True,
    ),
    "body_too_large": Code(
        (413,),
        "Body too large",
        "The body is over the limit: 1 MiB, for batch and events 10 MiB.",
        "Send less at a time.",
    ),
    "not_acceptable": Code(
        (406,),
        "Not acceptable",
        "Nothing that `Accept` names can be given here.",
        "The detail names what can.",
    ),
    "unsupported_media_type": Code(
        (415,),
        "Unsupported media type",
        "The body's type or encoding is not one that this route reads.",
        "Send `Content-Type: application/json`.",
    ),
    "rate_limited": Code(
        (429,),
        "Too many requests",
        "This API key sent more requests than `RateLimit-Policy` allows.",
        _NEVER_APPLIED,
        retryable=True,
    ),
    "headers_too_large": Code(
        (431,),
        "Headers too large",
        "The address or the headers are over the server's limits.",
        "Send fewer or shorter headers.",
    ),
    # 409: against the state of the books
    "hold_already_captured": Code(
        (409,),
        "Hold already captured",
        "The hold ended with a capture.",
        "Read its charges, or make a new hold.",
    ),
    "hold_already_voided": Code(
        (409,), "Hold already voided", "The hold ended with a void.", "Make a new hold."
    ),
    "hold_expired": Code(
        (409,),
        "Hold expired",
        "The hold's deadline has passed and its credit was returned.",
        "Capture with `above_hold: take` to take what was used from available credit, once.",
    ),
    "capture_exceeds_hold": Code(
        (409,),
        "Capture exceeds hold",
        "The capture asks for more than the hold has left. Nothing changed.",
        "Capture at most `remaining`, or send `above_hold: take`.",
    ),
    "reversal_exceeds_charge": Code(
        (409,),
        "Reversal exceeds charge",
        "The reversal asks for more than is left of the charge, or nothing is left.",
        "Reverse at most `left`.",
    ),
    "grant_already_voided": Code(
        (409,), "Grant already voided", "The grant was voided before.", "Nothing: it has ended."
    ),
    "customer_closed": Code(
        (409,),
        "Customer closed",
        "The customer is closed: what is open can be finished, nothing new starts.",
        "Use another customer.",
    ),
    "customer_in_use": Code(
        (409,),
        "Customer in use",
        "The customer can't be erased yet: it is not closed, or something of it is under way. "
        "`detail` lists what stands in the way. Nothing was erased.",
        "Close the customer and end what `detail` names, then ask again.",
    ),
    "customer_erased": Code(
        (409,),
        "Customer erased",
        "The customer's personal fields were erased: its profile takes nothing in any more.",
        "Use another customer.",
    ),
    "too_many_lots": Code(
        (409,),
        "Too many open lots",
        "The request would draw on more lots than one request may work on.",
        "Void lots that are not needed, or draw less at a time.",
    ),
    "asset_in_use": Code(
        (409,),
        "Asset in use",
        "The asset is in use with another scale, and a used scale never changes.",
        "Make another asset.",
    ),
    # 422: read, but wrong
    "idempotency_key_reused": Code(
        (422,),
        "Idempotency key reused",
        "The idempotency key was used for a different request. Nothing changed.",
        "Send a new key for a new request; a retry must repeat the request exactly.",
    ),
    "amount_out_of_range": Code(
        (422,),
        "Amount out of range",
        "The amount has more decimals than the asset's scale, is above the limit, or is 0 where "
        "more is needed.",
        "Keep within the limit that `detail` names: nothing is rounded.",
    ),
    "invalid_amount": Code(
        (422,),
        "Invalid amount",
        "The amount is not a plain decimal string.",
        'Send a string such as `"12.5"`: no number, no sign, no exponent.',
    ),
    "invalid_asset": Code(
        (422,),
        "Invalid asset",
        "The asset does not exist, is a currency where credits are meant, or has a bad code.",
        "`GET /v1/assets` lists them; `PUT /v1/assets/{code}` makes one.",
    ),
    "invalid_cost": Code(
        (422,),
        "Invalid cost",
        "A promotional grant came with a cost.",
        "Leave cost out, or make the grant paid.",
    ),
    "invalid_currency": Code(
        (422,),
        "Invalid currency",
        "The currency is not an ISO 4217 code that Stripe can charge, in upper case.",
        "Send a code such as USD.",
    ),
    "invalid_customer_id": Code(
        (422,),
        "Invalid customer id",
        "The customer id is empty, over 255 bytes of UTF-8, `.` or `..`, or has a control "
        "character, `/` or a backslash in it.",
        "Use an id within these bounds.",
    ),
    "invalid_depth": Code(
        (422,),
        "Nested too deep",
        "The JSON is nested deeper than the limit.",
        "Send it flatter; free objects may be 8 deep.",
    ),
    "invalid_expires_at": Code(
        (422,),
        "Invalid expires_at",
        "The end does not lie after now and after the start.",
        "Send a later time.",
    ),
    "invalid_idempotency_key": Code(
        (422,),
        "Invalid idempotency key",
        "The key is not 1 to 255 printable ASCII characters, bare or quoted.",
        "Send a key within these bounds, such as a UUID.",
    ),
    "invalid_metadata": Code(
        (422,),
        "Invalid free object",
        "A free object has over 50 members, is deeper than 8, or is over 16 KiB.",
        "Keep within the limit that `detail` names.",
    ),
    "invalid_minimum": Code(
        (422,),
        "Invalid minimum",
        "The minimum of a reserve is above its amount.",
        "Send a minimum of at most the amount.",
    ),
    "invalid_money": Code(
        (422,),
        "Invalid money",
        "A void of a paid grant must say where its money goes; of another grant it must not.",
        'Send `money` as `"refunded"` or `"breakage"`, or leave it out.',
    ),
    "invalid_number": Code(
        (422,),
        "Invalid number",
        "A JSON number has more digits, or a larger exponent, than the limit.",
        "Send a shorter number, or a string.",
    ),
    "invalid_overage": Code(
        (422,),
        "Invalid overage policy",
        "`owe` came without a limit, or `deny` with one.",
        "`owe` needs a limit, `bill` may have one, `deny` has none.",
    ),
    "invalid_query": Code(
        (422,),
        "Invalid query parameter",
        "A query parameter is unknown, given twice, missing, or has a value that it can't have.",
        "The detail names it; `/docs` lists what each route takes.",
    ),
    "invalid_scopes": Code(
        (422,),
        "Invalid scopes",
        "The scopes are empty, unknown, or more than this key may have.",
        "Choose from the list of scopes.",
    ),
    "invalid_text": Code(
        (422,), "Invalid text", "A text contains the character U+0000.", "Leave it out."
    ),
    "invalid_time_zone": Code(
        (422,),
        "Invalid time zone",
        "The time zone is not a name of the IANA database.",
        "Send a name such as Europe/Budapest.",
    ),
    "invalid_timestamp": Code(
        (422,),
        "Invalid time",
        "The time is no RFC 3339 time with an offset in the years 1970 to 2200.",
        'Send a time such as `"2030-01-31T12:00:00Z"`.',
    ),
    "invalid_to": Code(
        (422,),
        "Invalid time of the test clock",
        "The test clock would go back, or ahead more than 400 days at once.",
        "Send a time between now and 400 days ahead.",
    ),
    "invalid_value": Code(
        (422,),
        "Invalid value",
        "A member or parameter has the wrong type or is outside its bounds.",
        "See `errors` for the place, `detail` for what is expected.",
    ),
    "duplicate_member": Code(
        (422,),
        "Duplicate member",
        "An object of the body has two members of the same name.",
        "Send each member once.",
    ),
    "missing_member": Code(
        (422,), "Missing member", "A member that is needed is missing.", "Add the member."
    ),
    "unknown_member": Code(
        (422,),
        "Unknown member",
        "The body has a member that this route does not know.",
        "Check its spelling, or leave it out.",
    ),
    # 500, 503
    "internal": Code(
        (500,),
        "Internal error",
        "Something failed on our side. It is in the log under `request_id`.",
        "Send the request again with the same idempotency key, and tell the operator.",
    ),
    "queue_full": Code(
        (503,),
        "Too many requests waiting",
        "More requests wait for the books than the limit, or this one has waited too long.",
        _NEVER_APPLIED,
        retryable=True,
    ),
    "busy": Code(
        (503,),
        "Busy",
        "The customer was locked for too long, no database connection was free, or time has done "
        "more to the customer than one request may post.",
        _NEVER_APPLIED,
        retryable=True,
    ),
    "database_unavailable": Code(
        (503,), "Database unavailable", "The database is away.", _NEVER_APPLIED, retryable=True
    ),
    "draining": Code(
        (503,),
        "Stopping",
        "This process is stopping and takes no new requests.",
        _NEVER_APPLIED,
        retryable=True,
    ),
    "outcome_unknown": Code(
        (503,),
        "Outcome unknown",
        "The database went away while committing: the request may have been applied.",
        "Send the same request again with the same idempotency key: the answer will tell.",
        retryable=True,
    ),
    **METERING_CODES,
    **STRIPE_CODES,
}
