"""`shellrunner restore`: put a backup into a state directory that no server uses."""

from pathlib import Path
from typing import Final

import click

from shellrunner.backup.restoration import restore as restore_backup
from shellrunner.cli.commands.administration.backup import find_state_dir

_PATH: Final = click.Path(path_type=Path)


@click.command()
@click.argument("source", type=_PATH)
@click.option("--config", type=_PATH, help="Configuration file of the service, for its state directory.")
@click.option("--state-dir", type=_PATH, help="Directory of the history; overrides store.state_dir.")
@click.option("--set-aside", is_flag=True, help="Move a history that is there into a directory beside it.")
def restore(source: Path, config: Path | None, state_dir: Path | None, *, set_aside: bool) -> None:
    """Restore the backup in the directory SOURCE, after checking all of it.

    Nothing may use the state directory: stop the service first. All queues are paused afterwards, so that jobs that
    have run since the backup do not run again: look at them, then use `shellrunner queues resume --all`. New jobs get
    ids above all that were given out in this directory before.
    """
    done = restore_backup(source.absolute(), find_state_dir(config, state_dir), set_aside=set_aside)
    manifest = done.manifest
    click.echo(f"restored {manifest.jobs} jobs as of {manifest.created}; the next job is {done.next_id}")
    if done.set_aside:
        click.echo(f"the earlier history is in {done.set_aside}")
    for note in done.notes:
        click.echo(f"warning: {note}", err=True)
    resume = "`shellrunner queues resume --all`"
    click.echo(f"all queues are paused: start the service, look at its jobs, then use {resume}")
