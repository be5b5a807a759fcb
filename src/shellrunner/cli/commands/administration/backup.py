"""`shellrunner backup`: copy the history and all output into a new directory, while the service runs."""

import signal
import sys
from pathlib import Path
from typing import Final

import click

from shellrunner.backup.creation import back_up
from shellrunner.cli import exit_codes
from shellrunner.cli.ui.formatting import format_size
from shellrunner.config import load
from shellrunner.errors import ConfigError

_PATH: Final = click.Path(path_type=Path)


@click.command()
@click.argument("target", type=_PATH)
@click.option("--config", type=_PATH, help="Configuration file of the service, for its state directory.")
@click.option("--state-dir", type=_PATH, help="Directory of the history; overrides store.state_dir.")
def backup(target: Path, config: Path | None, state_dir: Path | None) -> None:
    """Copy the history and all output, as of one moment, into the new directory TARGET.

    The service may run meanwhile, and need not. Jobs that are running are `lost` in the backup, with the output they
    have written so far. TARGET appears once it is complete; other users cannot read it. It has everything that the
    history has, including input and environment variables of jobs that have not ended; settings and tokens are not in
    it.
    """
    # As Ctrl-C does: what was written so far is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(exit_codes.SIGNAL_BASE + signal.SIGTERM))
    manifest = back_up(find_state_dir(config, state_dir), target.absolute())
    size = format_size(sum(each.size for each in manifest.files.values()))
    lost = f", {manifest.lost} of them running" if manifest.lost else ""
    click.echo(f"{target}: {manifest.jobs} jobs{lost}, {size}, as of {manifest.created}")
    for path, missing in manifest.incomplete.items():
        click.echo(f"warning: {path} lacks {missing} bytes in the state directory, too", err=True)


def find_state_dir(config: Path | None, state_dir: Path | None) -> Path:
    """Return the state directory that `shellrunner serve` would use with these options.

    Raises:
        ConfigError: the history is not in one.
    """
    if state_dir:
        return state_dir.absolute()
    store = load(config).store
    if store.url:
        raise ConfigError(f"the history is in PostgreSQL ({store.database}): use pg_dump and pg_restore")
    return store.state_dir
