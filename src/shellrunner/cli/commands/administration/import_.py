"""`shellrunner import`: the history of a stopped single host becomes that of a cluster, in PostgreSQL."""

from pathlib import Path
from typing import Final

import click

from shellrunner.backup.cluster_import import move_history
from shellrunner.cli.ui.console import Console
from shellrunner.cli.ui.formatting import format_size
from shellrunner.config import load
from shellrunner.errors import ConfigError

_PATH: Final = click.Path(path_type=Path)


@click.command("import")
@click.argument("state_dir", type=_PATH)
@click.option("--config", type=_PATH, help="TOML file with the settings (default: none).")
@click.option(
    "--lose-running", is_flag=True, help="Record jobs that run by the history as lost, with their output so far."
)
def import_(state_dir: Path, config: Path | None, *, lose_running: bool) -> None:
    """Import the history in STATE_DIR, of a stopped single host, into PostgreSQL (store.url).

    The database has the tables (shellrunner migrate), no job yet, and no server uses it. Everything comes along: jobs
    with their ids, results and output, queues and their limits, pauses, sessions, callbacks, Idempotency-Keys. It is
    all or nothing: what was copied is compared with the history before it is committed. STATE_DIR is only read.
    """
    store = load(config).store
    if not store.url:
        raise ConfigError("store.url is not set: it says into which database the history is imported")
    console = Console()
    try:
        done = move_history(state_dir.absolute(), store.url, lose_running=lose_running, report=console.draw_status)
    finally:
        console.draw_status("")
    lost = f", {done.lost} of them lost" if done.lost else ""
    output = f", {format_size(done.output.bytes)} of output in chunks" if done.output.chunks else ""
    click.echo(f"{store.database}: imported {done.jobs} jobs{lost}{output}")
    if done.output.incomplete:
        click.echo(f"warning: {done.output.incomplete} outputs lack bytes in {state_dir}, too", err=True)
    if done.unreadable:
        click.echo(
            f"warning: {done.unreadable} jobs will fail to start, as the keys of their secrets are missing", err=True
        )
    click.echo(f"never start a server on the history in {state_dir} again: its jobs would run a second time")
