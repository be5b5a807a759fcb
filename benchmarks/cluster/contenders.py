"""Contenders that are clusters: why one of them is unavailable, its line of the table shows."""

from collections.abc import Callable
from contextlib import ExitStack

from benchmarks.cluster.database import Database, database
from benchmarks.figure import Round, Run, Unavailable
from benchmarks.versions import Version


def on_database(
    stack: ExitStack, run: Run, version: Version, make: Callable[[Database], Round]
) -> Round | Unavailable:
    """Return what `make` returns for a new database of this version, which is dropped with the stack."""
    try:
        return make(stack.enter_context(database(version, run.directory)))
    except Unavailable as reason:
        return reason
