"""The command line: parses arguments, runs a verb, and exits with a code.

Each verb is a module in `commands` that is imported only when it is called: `shellrunner ps` loads nothing of
`shellrunner serve`, and `shellrunner --version` next to nothing. Must not know SQL or processes.
Exit codes: 0 success, 1 failure, 2 wrong arguments or configuration; `run` and `wait` have their own.
"""

import sys
from typing import Any, Final

from shellrunner import __version__, process_hardening
from shellrunner.cli import boundary

_JOB_VERBS: Final = ("run", "submit", "attach", "batch", "again", "wait")  # their other exit codes are those of jobs
_JOB_ERROR_CODE: Final = 125


def main() -> None:
    """Run the command line. Errors that a user can correct are messages; a traceback is always a bug."""
    process_hardening.deny_inspection()  # first: the process may hold a token or a secret, whatever the verb
    boundary.open_standard_streams()
    is_of_job = _verb(sys.argv[1:]) in _JOB_VERBS
    boundary.end(boundary.exit_code_of(_run, _JOB_ERROR_CODE if is_of_job else None))


def _verb(arguments: list[str]) -> str:
    """Return the first argument behind the options that every verb has; empty if there is none."""
    is_value = False
    for argument in arguments:
        if not is_value and not argument.startswith("-"):
            return argument
        is_value = argument == "--server"
    return ""


def _run() -> Any:
    if sys.argv[1:] == ["--version"]:  # as `verb_group` does, which takes 20 ms to import
        sys.stdout.write(f"shellrunner {__version__}\n")
        return None
    from shellrunner.cli import verb_group  # noqa: PLC0415

    return verb_group.run()
