"""`shellrunner migrate`: make or upgrade the tables of a history in PostgreSQL, also a restored one."""

from pathlib import Path
from typing import Final

import click

from shellrunner.config import load
from shellrunner.errors import ConfigError
from shellrunner.store.postgres_import import import_postgres

_PATH: Final = click.Path(path_type=Path)
_KINDS: Final = ("api", "worker", "node")


@click.command()
@click.option("--config", type=_PATH, help="TOML file with the settings (default: none).")
@click.option(
    "--after-restore",
    is_flag=True,
    help="Declare that the database was restored from a backup, so that nothing runs twice.",
)
@click.option(
    "--role",
    "roles",
    metavar="KIND=NAME",
    multiple=True,
    callback=lambda _context, _option, given: parse_roles(given),
    help="Grant a database role what a node needs: api=NAME for serve --no-worker, worker=NAME for worker, "
    "node=NAME for serve that runs jobs; may be repeated.",
)
def migrate(config: Path | None, *, after_restore: bool, roles: dict[str, str]) -> None:
    """Make or upgrade the tables of the history in PostgreSQL (store.url).

    Nodes refuse to start until this was done, and those of an older version afterwards. A second time it changes
    nothing.

    With --role, nodes connect as roles that can do no more than their part; the tables belong to the role of this
    call. A role that was granted once is granted again each time.

    After a backup was restored, use --after-restore before any node is started: jobs that run by the history are
    lost, all queues are paused until you resume them, and new jobs get ids far above those that were given out.
    """
    store = load(config).store
    if not store.url:
        raise ConfigError("store.url is not set: a history in SQLite is migrated when the service starts")
    before, now = import_postgres("schema").migrate(store.url)
    if before == now:
        click.echo(f"{store.database}: schema {now} already, nothing to do")
    else:
        what = f"migrated from schema {before} to {now}" if before else f"made the tables, schema {now}"
        click.echo(f"{store.database}: {what}")
    for name, kind in import_postgres("maintenance.roles").grant(store.url, roles).items():
        click.echo(f"{store.database}: the role {name} has what {kind} needs")
    if after_restore:
        declared = import_postgres("hosts.after_restore").declare_restored(store.url)
        lost = f"{declared.lost} running job{'s' * (declared.lost != 1)} lost"
        click.echo(f"{store.database}: restored, epoch {declared.epoch}, {lost}")
        click.echo("all queues are paused: look at the jobs, then use `shellrunner queues resume --all`")


def parse_roles(given: tuple[str, ...]) -> dict[str, str]:
    """Return the kind of each role, by its name.

    Raises:
        BadParameter: one is not KIND=NAME.
    """
    roles: dict[str, str] = {}
    for each in given:
        kind, _, name = each.partition("=")
        if kind not in _KINDS or not name:
            raise click.BadParameter(f"{each!r} is not api=NAME, worker=NAME or node=NAME")
        roles[name] = kind
    return roles
