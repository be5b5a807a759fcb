"""`shellrunner worker`: run jobs of a history in PostgreSQL, without an HTTP API.

Loads the settings and calls `service.worker`. Must not know what the worker consists of.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import click

from shellrunner.cli.commands.administration.serve import load_again, run_server
from shellrunner.config import Settings, load

_PATH: Final = click.Path(path_type=Path)


@click.command()
@click.option("--config", type=_PATH, help="TOML file with the settings (default: none).")
@click.option("--state-dir", type=_PATH, help="Directory of running jobs; overrides store.state_dir.")
def worker(config: Path | None, state_dir: Path | None) -> None:
    """Run jobs of a history in PostgreSQL (store.url) until SIGTERM or SIGINT, without an HTTP API.

    It has the settings of `shellrunner serve`. Jobs are submitted to nodes that serve, and run on every host. With
    worker.listen it serves probes and its own metrics.
    """
    load_settings = partial(load, config, store={"state_dir": state_dir.absolute()} if state_dir else {})
    settings = load_settings()
    run_server(settings, lambda: _work(settings, partial(load_again, config, load_settings)))


def _work(settings: Settings, reread: Callable[[], Settings]) -> int:
    from shellrunner.service.worker import run  # noqa: PLC0415  after the log is configured

    return run(settings, reread)
