"""The command line: arguments in, an exit code out.

Owned by whoever types, or by systemd. Must not know SQL or processes; what a verb does lies in other rooms.
Exit codes: 0 done, 1 failed, 2 what was asked for makes no sense (arguments, configuration).
"""

import faulthandler
import getpass
import grp
import logging
import os
import pwd
import sys
from pathlib import Path
from typing import Any

import click

from shellrunner import __version__, log, systemd
from shellrunner.config import load
from shellrunner.errors import ConfigError, ShellrunnerError

_FAILED, _REFUSED = 1, 2

FILE = click.Path(path_type=Path)


def main() -> None:
    """Run what the arguments say. What a person can mend is said in words; a traceback is always a bug of ours."""
    _fill_standard_descriptors()
    try:
        cli()
    except ShellrunnerError as error:
        click.echo(error.detail, err=True)
        sys.exit(_REFUSED if isinstance(error, ConfigError) else _FAILED)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="shellrunner", message="%(prog)s %(version)s")
def cli() -> None:
    """Run shell commands for other programs: submit over HTTP, follow live, fetch the result."""


@cli.command()
@click.option("--config", type=FILE, help="A TOML file; none: the defaults.")
@click.option("--host", help="Where to listen, instead of server.host.")
@click.option("--port", type=int, help="Instead of server.port; 0: any free port.")
@click.option("--state-dir", type=FILE, help="Where the history lies, instead of store.state_dir.")
def serve(config: Path | None, host: str | None, port: int | None, state_dir: Path | None) -> None:
    """Serve until SIGTERM or SIGINT."""
    state_dir = state_dir and state_dir.absolute()
    settings = load(config, server=_given(host=host, port=port), store=_given(state_dir=state_dir))
    log.set_up(settings.log.level)
    # On SIGABRT, which systemd sends when the watchdog barks, it says where every thread was.
    if sys.stderr:
        faulthandler.enable()
    from shellrunner.service import run  # noqa: PLC0415  # the other verbs need nothing of what it imports

    try:
        sys.exit(run(settings))
    except ShellrunnerError:
        raise
    except Exception:
        # A border: what nobody expected is for the log, on one line, and systemd starts it anew.
        logging.getLogger("shellrunner.cli").critical("the service failed", exc_info=True)
        sys.exit(_FAILED)


@cli.command()
@click.option("--config", type=FILE, help="The file that the unit names.")
@click.option("--user", "name", default=getpass.getuser, show_default="you", help="Whom commands run as.")
def unit(config: Path | None, name: str) -> None:
    """Print a unit for systemd that starts this installation."""
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        group = name  # made later, by useradd(8), which makes a group of the same name
    else:
        group = grp.getgrgid(user.pw_gid).gr_name
    click.echo(systemd.unit_text(systemd.serve_command(_executable(), config), name, group), nl=False)


def _fill_standard_descriptors() -> None:
    # Started with one of them closed, the next file opened would get its number: log lines in the history's file.
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _executable() -> list[str]:
    """What starts this installation: its script, which pip puts beside its Python, else Python with its module."""
    script = Path(sys.executable).with_name("shellrunner")
    return [str(script)] if script.is_file() else [sys.executable, "-m", "shellrunner"]


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
