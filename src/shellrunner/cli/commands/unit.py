"""`shellrunner unit`: print what systemd needs to start this installation, or to listen for it."""

import getpass
import grp
import pwd
import sys
from pathlib import Path

import click

from shellrunner.config import load
from shellrunner.systemd import unit_files

FILE = click.Path(path_type=Path)


@click.command()
@click.option("--config", type=FILE, help="The file that the unit names.")
@click.option("--user", "name", default=getpass.getuser, show_default="you", help="Whom commands run as.")
@click.option(
    "--hardening",
    type=click.Choice(["sudo", "strict"]),
    default="sudo",
    show_default=True,
    help="What commands are kept from: nothing, so that sudo works; or all that ordinary ones can do without.",
)
@click.option("--socket", "listens", is_flag=True, help="The unit by which systemd listens for the service, instead.")
def unit(config: Path | None, name: str, hardening: unit_files.Hardening, *, listens: bool) -> None:
    """Print a unit for systemd that starts this installation."""
    owner = _owner(name)
    if listens:
        server = load(config).server
        text = unit_files.socket(server.addresses, server.socket_mode, owner)
    else:
        text = unit_files.service(unit_files.serve_command(_executable(), config), owner, hardening)
    click.echo(text, nl=False)


def _owner(name: str) -> unit_files.ServiceAccount:
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        return unit_files.ServiceAccount(
            name, name
        )  # made later, by useradd(8), which makes a group of the same name
    return unit_files.ServiceAccount(name, grp.getgrgid(user.pw_gid).gr_name)


def _executable() -> list[str]:
    """What starts this installation: its script, which pip puts beside its Python, else Python with its module."""
    script = Path(sys.executable).with_name("shellrunner")
    return [str(script)] if script.is_file() else [sys.executable, "-m", "shellrunner"]
