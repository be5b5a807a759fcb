"""`shellrunner install`: install the service under systemd, and start it."""

import os
from pathlib import Path
from typing import Final

import click

from shellrunner.errors import ShellrunnerError
from shellrunner.installation import plan
from shellrunner.installation.install_plan import InstallOptions, plan_staged, plan_system, plan_user, plan_worker
from shellrunner.installation.layout import USER_NAME, system_layout, user_layout
from shellrunner.installation.plan import Plan
from shellrunner.systemd.unit_files import HARDENINGS, Hardening

_PATH: Final = click.Path(path_type=Path)
_ROOT: Final = Path("/")


@click.command()
@click.option("--user", "is_user", is_flag=True, help="Install for you alone, under `systemctl --user`.")
@click.option("--worker", "is_worker", is_flag=True, help="Install a worker of a history in PostgreSQL instead.")
@click.option("--user-name", default=USER_NAME, show_default=True, help="User that the service and commands run as.")
@click.option("--config", type=_PATH, help="Configuration file (default: /etc/shellrunner/config.toml).")
@click.option(
    "--listen",
    multiple=True,
    metavar="ADDRESS",
    help="unix:/PATH or ADDRESS:PORT. Repeatable (default: localhost:8000 and unix:/run/shellrunner.sock).",
)
@click.option(
    "--hardening",
    type=click.Choice(HARDENINGS),
    default="sudo",
    show_default=True,
    help="Restrictions on commands, as for `shellrunner unit`.",
)
@click.option("--no-start", is_flag=True, help="Write the files, but do not enable or start the units.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
@click.option("--root", type=_PATH, default=_ROOT, help="Write the files of a package below this directory instead.")
def install(
    user_name: str,
    config: Path | None,
    listen: tuple[str, ...],
    hardening: Hardening,
    root: Path,
    *,
    is_user: bool,
    is_worker: bool,
    no_start: bool,
    dry_run: bool,
) -> None:
    """Install the service under systemd. A second time it changes nothing.

    With --worker the URL of PostgreSQL is read from /etc/shellrunner/database-url, as a credential of the unit.
    Needs root, unless with --user. Prints the first token to standard output, and everything else to standard error.
    """
    if is_user and (root != _ROOT or user_name != USER_NAME or hardening != "sudo"):
        raise click.UsageError("--user cannot be combined with --root, --user-name or --hardening")
    if is_worker and (is_user or listen or root != _ROOT):
        raise click.UsageError("--worker cannot be combined with --user, --listen or --root")
    where = user_layout(config) if is_user else system_layout(config, root)
    options = InstallOptions(where, user_name, listen, hardening, starts=not no_start)
    if where.is_user:
        execute(plan_user(options), dry_run=dry_run)
    elif where.is_staged:
        execute(plan_staged(options), dry_run=dry_run)
    else:
        require_root(dry_run=dry_run)
        execute((plan_worker if is_worker else plan_system)(options), dry_run=dry_run)


def require_root(*, dry_run: bool) -> None:
    """Require root for changes to the system.

    Raises:
        ShellrunnerError: another user.
    """
    if not dry_run and os.geteuid() != 0:
        raise ShellrunnerError("must be run as root; with --user, you install a service of your own")


def execute(to_do: Plan, *, dry_run: bool) -> None:
    """Apply a plan, or print it."""
    pending = to_do.pending()
    if dry_run:
        for each in pending:
            click.echo(each.description)
    else:
        plan.apply(pending, lambda description: click.echo(_first_line(description), err=True))
        if to_do.secret and pending:
            click.echo(to_do.secret)
    if not pending:
        click.echo("nothing to do", err=True)
    for note in to_do.notes if not dry_run else ():
        click.echo(f"note: {note}", err=True)


def _first_line(description: str) -> str:
    return description.partition("\n")[0].rstrip(":")
