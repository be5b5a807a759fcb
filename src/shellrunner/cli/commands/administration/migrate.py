"""`shellrunner migrate`: make or upgrade the tables of a history in PostgreSQL."""

from pathlib import Path
from typing import Final

import click

from shellrunner.config import load
from shellrunner.errors import ConfigError
from shellrunner.store.postgres_import import import_postgres

_PATH: Final = click.Path(path_type=Path)


@click.command()
@click.option("--config", type=_PATH, help="TOML file with the settings (default: none).")
def migrate(config: Path | None) -> None:
    """Make or upgrade the tables of the history in PostgreSQL (store.url).

    Nodes refuse to start until this was done, and those of an older version afterwards. A second time it changes
    nothing.
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
