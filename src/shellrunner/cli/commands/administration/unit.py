"""`shellrunner unit`: print a systemd unit that starts this installation, or a worker of it, or listens for it."""

import contextlib
import getpass
from pathlib import Path
from typing import Final

import click

from shellrunner.config import load
from shellrunner.errors import ConfigError
from shellrunner.installation import config_file, host
from shellrunner.installation.layout import system_layout
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
        text = unit_files.worker_unit(command, owner, hardening, _database_url(config))
    elif listens:
        server = load(config).server
        text = unit_files.socket_unit(server.addresses, server.socket_mode, owner)
    else:
        command = unit_files.serve_command(host.executable(), config)
        text = unit_files.service_unit(command, owner, hardening, _database_url(config))
    click.echo(text, nl=False)


def _database_url(config: Path | None) -> Path | None:
    """Return the file that the unit has to get as a credential; None also if the configuration cannot be read."""
    if config is not None:
        with contextlib.suppress(ConfigError):
            return config_file.read_or_create(config, "", ()).credential_file(system_layout(config))
    return None
