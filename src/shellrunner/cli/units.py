"""`shellrunner unit`: print what systemd needs to start this installation."""

import getpass
import grp
import pwd
import sys
from pathlib import Path

import click

from shellrunner import systemd

FILE = click.Path(path_type=Path)


@click.command()
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


def _executable() -> list[str]:
    """What starts this installation: its script, which pip puts beside its Python, else Python with its module."""
    script = Path(sys.executable).with_name("shellrunner")
    return [str(script)] if script.is_file() else [sys.executable, "-m", "shellrunner"]
