"""What PostgreSQL's errors mean to the callers of the store: psycopg's own never leave it.

Used by the other modules of `engine`. Must not know units.
"""

import re
from typing import Final

import psycopg
from psycopg import errors

from shellrunner.errors import DatabaseLost, NoSpace, OutcomeUnknown, StoreUnavailable
from shellrunner.store.db import RowChangedError

# The transaction has had no effect, and is to be run again: another one was in its way.
RETRIED: Final = (errors.SerializationFailure, errors.DeadlockDetected, RowChangedError)
# As libpq begins each of its errors of connecting. What is quoted in the rest is a name: of a user, a database, a
# host, a certificate or a file.
_ADDRESS: Final = re.compile(
    r'connection to server (?:at|on socket) "[^"]*"(?: \([^)]*\))?(?:, port \d+)? failed: (?:FATAL: +)?'
)
_IS_OF_CONNECTING: Final = re.compile("connection failed|connection is bad|failed to resolve")
_QUOTED: Final = re.compile(r""" ("[^"]*"|'[^']*')""")


def is_lost(error: psycopg.Error) -> bool:
    """Return whether the connection is of no more use: also if its server takes no writes (any more)."""
    if isinstance(error, errors.ReadOnlySqlTransaction):
        return True
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and (
        error.sqlstate is None or error.sqlstate[:2] in ("08", "57")
    )


def _is_transient(error: psycopg.Error) -> bool:
    """Return whether it says nothing of the next try: a lack of resources, a lock, an error of the system."""
    return is_lost(error) or (error.sqlstate or "")[:2] in ("53", "55", "58")


def translate_failure(error: Exception, action: str) -> Exception:
    """Return the error as callers may see it; `action`: what could not be done."""
    if not isinstance(error, psycopg.Error):
        return error
    if error.sqlstate is not None and error.sqlstate.startswith("53"):
        return (
            NoSpace() if isinstance(error, errors.DiskFull) else unavailable(error, f"the history cannot be {action}")
        )
    return unavailable(error, f"the history cannot be {action}")


def outcome_unknown(error: Exception) -> OutcomeUnknown:
    """Return the error of a COMMIT that was sent, and not answered."""
    return OutcomeUnknown(
        f"the history could not be written: {_without_address(error)}; whether the request took effect is not known"
    )


def describe(error: Exception) -> str:
    """Return one line about the error, without what psycopg adds of its connection string."""
    diagnosis = getattr(error, "diag", None)
    text = (diagnosis.message_primary if diagnosis is not None else None) or str(error)
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__


def unavailable(error: psycopg.Error, what: str) -> StoreUnavailable:
    """Return the error of something that had no effect; `what`: what could not be done, as a sentence."""
    return (DatabaseLost if _is_transient(error) else StoreUnavailable)(f"{what}: {_without_address(error)}")


def _without_address(error: Exception) -> str:
    """Describe the error to clients: the address of the database does not concern them, nor its names."""
    text = describe(error)
    return _QUOTED.sub("", _ADDRESS.sub("", text)) if _IS_OF_CONNECTING.match(text) else text
