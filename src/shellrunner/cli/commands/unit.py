"""`shellrunner unit`: print a systemd unit that starts this installation, or that listens for it."""

import getpass
import grp
import pwd
import sys
from pathlib import Path
from typing import Final

import click

from shellrunner.config import load
from shellrunner.systemd import unit_files

_PATH: Final = click.Path(path_type=Path)


@click.command()
@click.option("--config", type=_PATH, help="Configuration file for the unit to name.")
@click.option("--user", "name", default=getpass.getuser, show_default="you", help="User that commands run as.")
@click.option(
    "--hardening",
    type=click.Choice(["sudo", "strict"]),
    default="sudo",
    show_default=True,
    help="Restrictions on commands: sudo allows sudo to work, strict denies all that ordinary commands do without.",
)
@click.option("--socket", "listens", is_flag=True, help="Print the socket unit by which systemd listens for it.")
def unit(config: Path | None, name: str, hardening: unit_files.Hardening, *, listens: bool) -> None:
    """Print a systemd unit that starts this installation."""
    owner = _owner(name)
    if listens:
        server = load(config).server
        text = unit_files.socket_unit(server.addresses, server.socket_mode, owner)
    else:
        text = unit_files.service_unit(unit_files.serve_command(_executable(), config), owner, hardening)
    click.echo(text, nl=False)


def _owner(name: str) -> unit_files.ServiceAccount:
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        # It will be created later by useradd(8), which creates a group of the same name.
        return unit_files.ServiceAccount(name, name)
    return unit_files.ServiceAccount(name, grp.getgrgid(user.pw_gid).gr_name)


def _executable() -> list[str]:
    """Return the command of this installation: the script that pip puts beside Python, else Python and the module."""
    script = Path(sys.executable).with_name("shellrunner")
    return [str(script)] if script.is_file() else [sys.executable, "-m", "shellrunner"]
