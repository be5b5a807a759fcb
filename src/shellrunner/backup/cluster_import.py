"""Moving the history of a stopped single host into PostgreSQL: what `shellrunner import` does.

Reads the state directory only, and holds its lock meanwhile, so that no server starts. Must not know SQL.
"""

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from shellrunner.backup.private_files import readable_errors
from shellrunner.errors import ShellrunnerError
from shellrunner.sealing import sealed_text
from shellrunner.sealing.digest_key import DigestKey
from shellrunner.sealing.key_files import KeyFiles
from shellrunner.service.state_dir import locked
from shellrunner.store.output.local import LocalStorage
from shellrunner.store.postgres_import import import_postgres
from shellrunner.store.sqlite.copying.snapshot import RunningJobRow
from shellrunner.store.sqlite.copying.stopped_history import open_stopped
from shellrunner.supervisor.verdict import output_so_far

_HISTORY: Final = "history.db"


def move_history(state_dir: Path, url: str, *, lose_running: bool, report: Callable[[str], object]) -> Any:
    """Import the history of a state directory into the empty one at `url`; return `history_import.Imported`.

    `report` is called with each step, for a person who waits.

    Raises:
        ShellrunnerError: nothing was imported; the message says why and what to do.
    """
    importing = import_postgres("maintenance.history_import")
    history = state_dir / _HISTORY
    if not history.is_file():
        raise ShellrunnerError(f"there is no history in {state_dir}: {_HISTORY} is missing")
    sealed_text.load_cipher()
    with (
        readable_errors("nothing was imported"),
        locked(state_dir),
        open_stopped(str(history)) as source,
    ):
        state = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with closing(LocalStorage(str(state_dir))) as storage:
                files = importing.StateFiles(
                    storage=storage,
                    read_key=KeyFiles(str(state_dir)).read,
                    digest_key=DigestKey(str(state_dir)).read(),
                    find_output=_find_output(importing, state) if lose_running else None,
                )
                return importing.import_history(url, source, files, report)
        finally:
            os.close(state)


def _find_output(importing: Any, state: int) -> Callable[[RunningJobRow], Any]:
    def find(row: RunningJobRow) -> Any:
        found = output_so_far(state, row.keeper, row.id, row.token)
        return importing.OutputFound(found.volume, found.head, found.started)

    return find
