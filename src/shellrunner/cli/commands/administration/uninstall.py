"""`shellrunner uninstall`: stop the service and remove its units."""

import click

from shellrunner.cli.commands.administration.install import execute, require_root
from shellrunner.installation.layout import system_layout, user_layout
from shellrunner.installation.removal_plan import plan_removal


@click.command()
@click.option("--user", "is_user", is_flag=True, help="Remove what `install --user` has installed.")
@click.option("--purge", is_flag=True, help="Remove settings, tokens, history and the system user too.")
@click.option("--no-stop", is_flag=True, help="Remove the files, but do not stop the units.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
def uninstall(*, is_user: bool, purge: bool, no_stop: bool, dry_run: bool) -> None:
    """Stop the service, or the worker, and remove its units; running commands continue.

    Settings and history stay, unless with --purge, which requires that no commands run any more.
    """
    if not is_user:
        require_root(dry_run=dry_run)
    where = user_layout() if is_user else system_layout()
    execute(plan_removal(where, purge=purge, stops=not no_stop), dry_run=dry_run)
