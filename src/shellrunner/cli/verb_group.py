"""The verbs, and the parsing of a command line.

Each verb is a module in `commands`, imported only when it is called. Must not know what a verb does.
"""

import gc
import os
import sys
from importlib import import_module
from typing import Any, Final

import click

from shellrunner import __version__
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


def run() -> Any:
    """Run the verb that this process was called with; return its exit code, None for 0."""
    try:
        return _invoke()
    except click.exceptions.Exit as ended:  # --help
        return ended.exit_code
    except click.Abort:
        raise KeyboardInterrupt from None
    except click.ClickException as error:
        boundary.show(error)
        return error.exit_code


def _invoke() -> Any:
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
        gc.freeze()  # what was imported stays
        gc.enable()  # `__main__` has disabled it
        return verb


@click.group(cls=_VerbGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="shellrunner", message="%(prog)s %(version)s")
def cli() -> None:
    """Run shell commands for other programs: submit over HTTP, follow live, fetch the result."""
