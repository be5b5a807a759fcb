"""The command line: parses arguments, runs a verb, and exits with a code.

Each verb is a module in `commands` that is imported only when it is called: `shellrunner ps` loads nothing of
`shellrunner serve`. Must not know SQL or processes.
Exit codes: 0 success, 1 failure, 2 wrong arguments or configuration; `run` and `wait` have their own.
"""

import os
import sys
from importlib import import_module
from typing import Final

import click

from shellrunner import __version__, process_hardening
from shellrunner.errors import ConfigError, ShellrunnerError

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


def main() -> None:
    """Run the command line. Errors that a user can correct are messages; a traceback is always a bug."""
    process_hardening.deny_inspection()  # first: the process may hold a token or a secret, whatever the verb
    _open_standard_descriptors()
    try:
        cli(prog_name="shellrunner", complete_var=COMPLETION_VARIABLE)
    except ShellrunnerError as error:
        from shellrunner.cli import exit_codes  # noqa: PLC0415  --version and --help need nothing of the model

        click.echo(error.detail, err=True)
        sys.exit(exit_codes.USAGE_ERROR if isinstance(error, ConfigError) else exit_codes.FAILED)


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


def _open_standard_descriptors() -> None:
    # If one of them is closed, the next file to be opened gets its number: log lines would go into the history.
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # open(2): the lowest number that is free
