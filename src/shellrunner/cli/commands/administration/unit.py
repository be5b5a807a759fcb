"""`shellrunner unit`: print a systemd unit that starts this installation, or a worker of it, or listens for it."""

import getpass
from pathlib import Path
from typing import Final

import click

from shellrunner.config import load
from shellrunner.installation import host
from shellrunner.systemd import unit_files

_PATH: Final = click.Path(path_type=Path)


@click.command()
@click.option("--config", type=_PATH, help="Configuration file for the unit to name.")
@click.option("--user", "name", default=getpass.getuser, show_default="you", help="User that commands run as.")
@click.option(
    "--hardening",
    type=click.Choice(unit_files.HARDENINGS),
    default="sudo",
    show_default=True,
    help="Restrictions on commands: sudo allows sudo to work, strict denies all that ordinary commands do without.",
)
@click.option("--socket", "listens", is_flag=True, help="Print the socket unit by which systemd listens for it.")
@click.option(
    "--worker", "is_worker", is_flag=True, help="Print the unit of a worker, which runs jobs and has no API."
)
def unit(config: Path | None, name: str, hardening: unit_files.Hardening, *, listens: bool, is_worker: bool) -> None:
    """Print a systemd unit that starts this installation."""
    if listens and is_worker:
        raise click.UsageError("--socket cannot be combined with --worker, which listens on nothing")
    owner = host.find_account(name)
    if is_worker:
        command = unit_files.serve_command(host.executable(), config, "worker")
        text = unit_files.worker_unit(command, owner, hardening)
    elif listens:
        server = load(config).server
        text = unit_files.socket_unit(server.addresses, server.socket_mode, owner)
    else:
        text = unit_files.service_unit(unit_files.serve_command(host.executable(), config), owner, hardening)
    click.echo(text, nl=False)
