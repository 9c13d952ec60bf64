"""What can go wrong between the service and its database, as four facts a caller can act on.

Everything else that asyncpg raises is either an answer of the books (a named constraint) or a bug,
and passes through unchanged.
"""

import asyncpg


class DatabaseFault(Exception):
    """The database could not do its part. The edge answers 503, retryable.

    `sqlstate` is PostgreSQL's code, or None where the failure was on our side of the wire.
    """

    def __init__(self, message: str, *, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class DatabaseBusy(DatabaseFault):
    """No free connection, or a lock or statement took too long. Nothing was written."""


class DatabaseUnavailable(DatabaseFault):
    """The database is away, starting, stopping, full or read-only. Nothing was written."""


class TransactionConflict(DatabaseFault):
    """PostgreSQL undid the transaction: deadlock, serialization failure, or a changed table.

    Nothing was written. The whole transaction may be run again at once.
    """


class OutcomeUnknown(DatabaseFault):
    """The connection was lost while COMMIT was on its way: written or not, nobody here knows.

    Only reading what the transaction would have written (its idempotency key) can tell.
    """


# By SQLSTATE; two letters stand for the whole class, three for the group.
_CONFLICT = ("40",)
_BUSY = ("55P03", "57014", "53300")
_UNAVAILABLE = ("08", "25006", "25P03", "25P04", "53", "57P", "58")
# What PostgreSQL or a pooler says while it ends the connection.
_CONNECTION_ENDS = ("08", "25P03", "25P04", "57P")


def translate(error: BaseException) -> DatabaseFault | None:
    """The fault that `error` stands for, or None if it is not about the database's service.

    A lost connection becomes DatabaseUnavailable: only who sent the COMMIT knows that it was on its
    way and must say OutcomeUnknown instead.
    """
    if isinstance(error, DatabaseFault):
        return error
    if isinstance(error, asyncpg.InvalidCachedStatementError | asyncpg.OutdatedSchemaCacheError):
        # A migration changed a table under a cached plan. asyncpg has dropped the plan and
        # can't retry inside a transaction; a second run plans anew.
        return TransactionConflict(str(error))
    if isinstance(error, asyncpg.PostgresError):
        sqlstate = error.sqlstate or ""
        for codes, fault in (
            (_CONFLICT, TransactionConflict),
            (_BUSY, DatabaseBusy),
            (_UNAVAILABLE, DatabaseUnavailable),
        ):
            if sqlstate.startswith(codes):
                return fault(f"{error} ({sqlstate})", sqlstate=sqlstate)
    if isinstance(error, TimeoutError):
        return DatabaseBusy("the database did not answer in time")
    if isinstance(error, ConnectionError):
        return DatabaseUnavailable(f"the connection was lost: {error}")
    return None


def ends_connection(error: BaseException) -> bool:
    """True if `error` says that the connection is going away, even if it still looks open."""
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "").startswith(_CONNECTION_ENDS)
    return isinstance(error, OSError)
