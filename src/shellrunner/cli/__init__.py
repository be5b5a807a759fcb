"""The command line: arguments in, an exit code out.

Owned by whoever types, or by systemd. Must not know SQL or processes; what a verb does lies in other rooms. Each verb
has a module, perhaps with others of its kind, that is imported only when it is called: `shellrunner ps` needs nothing
of what `shellrunner serve` does.
Exit codes: 0 done, 1 failed, 2 what was asked for makes no sense (arguments, configuration).
"""

import os
import sys
from importlib import import_module
from typing import Final

import click

from shellrunner import __version__, process_hardening
from shellrunner.errors import ConfigError, ShellrunnerError

_FAILED, _REFUSED = 1, 2
VARIABLE: Final = "_SHELLRUNNER_COMPLETE"  # by which a shell asks for completions

# Each verb, and the module that has it under its own name.
VERBS: Final = {
    "run": "run",
    "submit": "submit",
    "logs": "logs",
    "wait": "wait",
    "ps": "ps",
    "show": "show",
    "cancel": "cancel",
    "rm": "cancel",
    "prune": "cancel",
    "queues": "queues",
    "serve": "serve",
    "token": "token",
    "unit": "unit",
    "completion": "completion",
}


def main() -> None:
    """Run what the arguments say. What a person can mend is said in words; a traceback is always a bug of ours."""
    process_hardening.hide()  # before anything else: it may hold a token or a secret, whatever the verb
    _fill_standard_descriptors()
    try:
        cli(prog_name="shellrunner", complete_var=VARIABLE)
    except ShellrunnerError as error:
        click.echo(error.detail, err=True)
        sys.exit(_REFUSED if isinstance(error, ConfigError) else _FAILED)


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table, which is the order in which they are met."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import what was asked for, and nothing else."""
        if cmd_name not in VERBS:
            return None
        verb: click.Command = getattr(import_module(f"shellrunner.cli.commands.{VERBS[cmd_name]}"), cmd_name)
        return verb


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="shellrunner", message="%(prog)s %(version)s")
def cli() -> None:
    """Run shell commands for other programs: submit over HTTP, follow live, fetch the result."""


def _fill_standard_descriptors() -> None:
    # Started with one of them closed, the next file opened would get its number: log lines in the history's file.
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
