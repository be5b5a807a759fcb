"""`shellrunner serve`: run the service.

Loads the settings, sets up the log, and calls `service`. Must not know what the service consists of.
"""

import faulthandler
import gc
import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from shellrunner import log, startup_signals
from shellrunner.aiohttp_import import import_aiohttp
from shellrunner.cli import exit_codes
from shellrunner.cli.parameters.number_types import WholeNumber
from shellrunner.config import Settings, check_rereadable, load
from shellrunner.errors import ShellrunnerError

_PATH: Final = click.Path(path_type=Path)


@click.command()
@click.option("--config", type=_PATH, help="TOML file with the settings (default: none).")
@click.option("--host", help="Address to listen on; overrides server.host.")
@click.option("--port", type=WholeNumber(), help="Port to listen on, 0 for any free one; overrides server.port.")
@click.option(
    "--listen", multiple=True, metavar="ADDRESS", help="Instead of both: unix:/PATH or ADDRESS:PORT. Repeatable."
)
@click.option("--state-dir", type=_PATH, help="Directory of the history; overrides store.state_dir.")
@click.option(
    "--new-history",
    is_flag=True,
    help="If history.db is missing or another one, set aside what is left of the history that was there.",
)
@click.option(
    "--no-worker",
    "runs_jobs",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Leave jobs to other hosts; requires a history in PostgreSQL (store.url).",
)
def serve(
    config: Path | None,
    host: str | None,
    port: int | None,
    listen: tuple[str, ...],
    state_dir: Path | None,
    *,
    new_history: bool,
    runs_jobs: bool,
) -> None:
    """Run the service until SIGTERM or SIGINT."""
    state_dir = state_dir and state_dir.absolute()
    options = {"server": _server_options(host, port, listen), "store": _given(state_dir=state_dir)}
    load_settings = partial(load, config, **options)
    settings = load_settings()
    reread = partial(load_again, config, load_settings)
    run_server(settings, lambda: _serve(settings, reread, new_history=new_history, runs_jobs=runs_jobs))


def _serve(settings: Settings, reread: Callable[[], Settings], *, new_history: bool, runs_jobs: bool) -> int:
    from shellrunner.service import run  # noqa: PLC0415  it imports aiohttp otherwise

    return run(settings, reread, new_history=new_history, runs_jobs=runs_jobs)


def run_server(settings: Settings, program: Callable[[], int]) -> None:
    """Set up the log, run the program, which imports what it needs, and exit with the status that it returns.

    Raises:
        ShellrunnerError: it could not start; the text says why.
    """
    log.configure(settings.log.level, style=settings.log.format)
    # systemd sends SIGABRT when the watchdog times out: the traceback of every thread goes to standard error.
    if sys.stderr:
        faulthandler.enable()
    try:
        gc.disable()  # until the start is complete: `service` enables it
        import_aiohttp()
        sys.exit(program())
    except ShellrunnerError:
        raise
    except Exception:
        # The outermost frame: an unexpected error is logged on one line, and systemd restarts the service.
        logging.getLogger("shellrunner.cli").critical("the service failed", exc_info=True)
        sys.exit(exit_codes.FAILED)
    finally:
        startup_signals.ignore()


def load_again(config: Path | None, load_settings: Callable[[], Settings]) -> Settings:
    """Load the settings again.

    Raises:
        ConfigError: they are invalid, or the file is a pipe (`<(…)`), which can be read only once.
    """
    if config:
        check_rereadable(config)
    return load_settings()


def _server_options(host: str | None, port: int | None, listen: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings for where to listen; any of them overrides all addresses of the configuration."""
    address = _given(host=host, port=port)
    if address and listen:
        raise click.UsageError("--listen cannot be combined with --host or --port")
    return {**address, "listen": list(listen)} if address or listen else {}


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
