"""The verbs, and the parsing of a command line.

Each verb is a module in a package of `commands`, imported only when it is called. Must not know what a verb does.
"""

import gc
import os
import sys
from importlib import import_module
from keyword import iskeyword
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from shellrunner import __version__, startup_interrupt
from shellrunner.cli import boundary
from shellrunner.cli.ui.help_examples import epilog

if TYPE_CHECKING:
    from collections.abc import Mapping

    from click.shell_completion import CompletionItem

COMPLETION_VARIABLE: Final = "_SHELLRUNNER_COMPLETE"  # set by a shell that asks for completions
_COMMANDS: Final = "shellrunner.cli.commands"


class VerbSection(NamedTuple):
    """A heading of `shellrunner --help`, and its verbs; they are the modules of one package."""

    heading: str
    verbs: "Mapping[str, str]"


# By package, in the order of `shellrunner --help`. Each verb has the first sentence of its own help, so that neither
# that nor the completion of a shell imports all of them. Each is a function of its name in the module of its name.
SECTIONS: Final = {
    "submission": VerbSection(
        "Run commands",
        {
            "run": "Run COMMAND, show its output live, and exit with its code.",
            "submit": "Submit COMMAND, print the id of the job, and exit.",
            "attach": "Attach this terminal to a job that runs on one: show its screen, and type into it.",
            "batch": "Submit the jobs in FILE, or with - in standard input, and print their ids in the same order.",
            "again": "Submit earlier jobs again, and print the ids of the new ones.",
        },
    ),
    "inspection": VerbSection(
        "Look at jobs",
        {
            "ps": "List the jobs that are not done: what runs, then what starts next, and why the rest waits.",
            "top": "Show what the processes of running jobs use: CPU, memory, time.",
            "show": "Show everything about jobs: their options, status and result.",
            "logs": "Print the output of a job: its standard output to standard output, its standard error to "
            "standard error.",
            "wait": "Wait until all jobs are done.",
        },
    ),
    "control": VerbSection(
        "Change jobs, queues and hosts",
        {
            "cancel": "Request that jobs end: SIGTERM, then SIGKILL after a grace period.",
            "signal": "Send SIGNAL (HUP, SIGUSR1, 15, ...) to the process group of running commands.",
            "send": "Write the line TEXT, or with - this process's own input, to the standard input of running "
            "commands.",
            "pause": "Suspend running commands, with all of their processes, until they are resumed.",
            "resume": "Resume paused commands.",
            "hold": "Keep jobs from starting until they are released.",
            "release": "Let held jobs start.",
            "edit": "Change jobs that have not started: by options, or without any in $VISUAL or $EDITOR.",
            "rm": "Delete jobs that are done from the history, with their output.",
            "prune": "Delete all jobs that are done, or those that match the filters, after confirmation.",
            "queues": "List the queues, or create, set, pause, resume or remove one.",
            "hosts": "List the hosts that share the history, or remove one that will not return.",
            "drain": "Start no more jobs on hosts; those that run there continue.",
            "undrain": "Start jobs on drained hosts again.",
        },
    ),
    "administration": VerbSection(
        "Run the service",
        {
            "serve": "Run the service until SIGTERM or SIGINT.",
            "worker": "Run jobs of a history in PostgreSQL (store.url) until SIGTERM or SIGINT, without an HTTP API.",
            "migrate": "Make or upgrade the tables of the history in PostgreSQL (store.url).",
            "import": "Import the history in STATE_DIR, of a stopped single host, into PostgreSQL (store.url).",
            "backup": "Copy the history and all output, as of one moment, into the new directory TARGET.",
            "restore": "Restore the backup in the directory SOURCE, after checking all of it.",
            "token": "Create tokens, and list those of a configuration.",
            "keepers": "List running commands that the history does not know, or end one.",
            "install": "Install the service under systemd.",
            "uninstall": "Stop the service, or the worker, and remove its units; running commands continue.",
            "unit": "Print a systemd unit that starts this installation.",
            "completion": "Print a completion script, to be evaluated when the shell starts.",
        },
    ),
}
VERBS: Final = {name: summary for section in SECTIONS.values() for name, summary in section.verbs.items()}
_PACKAGES: Final = {name: package for package, section in SECTIONS.items() for name in section.verbs}


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
        from shellrunner.cli.ui import shell_completion  # noqa: PLC0415  only for shells

        shell_completion.install()
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
        name = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
        module = import_module(f"{_COMMANDS}.{_PACKAGES[cmd_name]}.{name}")
        verb: click.Command = getattr(module, name)
        if "\b" not in (verb.epilog or ""):
            verb.epilog = epilog(cmd_name)
        gc.freeze()  # what was imported stays
        gc.enable()  # `__main__` has disabled it
        startup_interrupt.raise_again()
        return verb

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the verb that the first argument names, or suggest the one that it resembles."""
        if args[0] not in VERBS and not args[0].startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"there is no verb {args[0]!r}{_suggestion(args[0])}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs by section, and what they do."""
        width = max(map(len, VERBS))
        limit = formatter.width - 6 - width
        for section in SECTIONS.values():
            with formatter.section(section.heading):
                formatter.write_dl([(name.ljust(width), _summary(name, limit)) for name in section.verbs])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        """Return the verbs that begin with `incomplete`, and the options that do."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415  only for shells

        verbs = [CompletionItem(name, help=_summary(name)) for name in VERBS if name.startswith(incomplete)]
        return verbs + click.Command.shell_complete(self, ctx, incomplete)


def _suggestion(word: str) -> str:
    import difflib  # noqa: PLC0415  only for mistakes

    similar = difflib.get_close_matches(_SYNONYMS.get(word, word), VERBS, n=1)
    return f": did you mean `{similar[0]}`?" if similar else ": see `shellrunner --help`"


# What similar programs call a verb.
_SYNONYMS: Final = {
    "add": "submit", "ls": "ps", "list": "ps", "status": "ps", "log": "logs", "follow": "logs", "tail": "logs",
    "cat": "logs", "output": "logs", "info": "show", "inspect": "show", "kill": "cancel", "stop": "cancel",
    "remove": "rm", "delete": "rm", "clean": "prune", "clear": "prune", "groups": "queues", "group": "queues",
    "queue": "queues", "parallel": "queues", "daemon": "serve", "start": "serve", "server": "serve", "exec": "run",
    "stash": "hold", "enqueue": "release", "restart": "again", "re": "again", "retry": "again", "rerun": "again",
    "fo": "logs", "nodes": "hosts", "workers": "hosts", "cordon": "drain", "uncordon": "undrain",
    "cleanup": "prune", "completions": "completion", "switch": "edit", "abort": "cancel",
}  # fmt: skip


def _summary(verb: str, limit: int = 45) -> str:
    return click.Command(verb, help=VERBS[verb]).get_short_help_str(limit)


@click.group(cls=_VerbGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--server", metavar="URL", help="Address of the service; may also follow the verb.")
@click.version_option(__version__, prog_name="shellrunner", message="%(prog)s %(version)s")
def cli(server: str | None) -> None:
    """Run shell commands for other programs: submit over HTTP, follow live, fetch the result."""
