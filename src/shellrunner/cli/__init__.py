"""The command line: parses arguments, runs a verb, and exits with a code.

Each verb is a module in `commands` that is imported only when it is called: `shellrunner ps` loads nothing of
`shellrunner serve`. Must not know SQL or processes.
Exit codes: 0 success, 1 failure, 2 wrong arguments or configuration; `run` and `wait` have their own.
"""

import os
import sys
from importlib import import_module
from typing import Any, Final

import click

from shellrunner import __version__, process_hardening
from shellrunner.cli import boundary

COMPLETION_VARIABLE: Final = "_SHELLRUNNER_COMPLETE"  # set by a shell that asks for completions

# In the order of `shellrunner --help`. Each is a function of its name in the module of its name.
VERBS: Final = (
    "run",
    "submit",
    "logs",
    "wait",
    "ps",
    "show",
    "cancel",
    "signal",
    "rm",
    "prune",
    "queues",
    "serve",
    "backup",
    "restore",
    "token",
    "install",
    "uninstall",
    "unit",
    "completion",
)
_JOB_VERBS: Final = ("run", "submit", "wait")  # their other exit codes are those of jobs
_JOB_ERROR_CODE: Final = 125


def main() -> None:
    """Run the command line. Errors that a user can correct are messages; a traceback is always a bug."""
    process_hardening.deny_inspection()  # first: the process may hold a token or a secret, whatever the verb
    boundary.open_standard_streams()
    is_of_job = sys.argv[1:2] and sys.argv[1] in _JOB_VERBS
    boundary.end(boundary.exit_code_of(_run, _JOB_ERROR_CODE if is_of_job else None))


def _run() -> Any:
    if COMPLETION_VARIABLE in os.environ:
        return cli(prog_name="shellrunner", complete_var=COMPLETION_VARIABLE)
    # Not by `cli.main`, which exits with 1 where the reader of the output is gone.
    with cli.make_context("shellrunner", sys.argv[1:]) as context:
        return cli.invoke(context)


class _VerbGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of `VERBS`."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a verb, and no other."""
        if cmd_name not in VERBS:
            return None
        verb: click.Command = getattr(import_module(f"shellrunner.cli.commands.{cmd_name}"), cmd_name)
        return verb


@click.group(cls=_VerbGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="shellrunner", message="%(prog)s %(version)s")
def cli() -> None:
    """Run shell commands for other programs: submit over HTTP, follow live, fetch the result."""
