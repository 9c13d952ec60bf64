"""The story of a purchase: what was asked of Stripe, what it told, what was booked."""

from typing import Final

from ledger import load_purchases
from ledger.ids import public_id
from ledger.load_purchases import PurchaseRef
from meter.http.stripe_bodies import CallAnswer, NewsAnswer, ObjectAnswer, Story, StoryJournal
from sql import queries
from sql.pool import Connection

NEWS_SHOWN: Final = 50
JOURNALS_SHOWN: Final = 200


async def story_of(conn: Connection, owner: PurchaseRef) -> Story:
    """What is kept of a purchase, oldest first; of news and journals the latest and first ones."""
    place = owner.customer_no, owner.purchase_no
    names = await load_purchases.objects(conn, owner)
    news = await conn.fetch(queries.stripe_events_of, names, NEWS_SHOWN)
    journals = await conn.fetch(queries.purchase_journals, *place, JOURNALS_SHOWN)
    return Story(
        calls=[
            CallAnswer(
                kind=row["kind"],
                object_id=row["object_id"],
                status="parked"
                if row["is_parked"]
                else ("waiting" if row["object_id"] is None else "done"),
                error=row["error"],
                created_at=row["created_at"],
                done_at=row["done_at"],
            )
            for row in await conn.fetch(queries.purchase_calls, *place)
        ],
        objects=[
            ObjectAnswer(
                row["object_id"],
                row["kind"],
                "parked" if row["is_parked"] else ("waiting" if row["is_waiting"] else "applied"),
                row["error"],
            )
            for row in await conn.fetch(queries.stripe_objects_of, names)
        ],
        news=[NewsAnswer(*tuple(row)) for row in reversed(news)],
        journals=[
            StoryJournal(public_id("jrn", owner.customer_no, row["seq"]), *tuple(row)[1:])
            for row in journals
        ],
    )
