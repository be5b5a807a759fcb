"""`shellrunner serve`: be the service.

Reads the settings, sets up the log, and hands over to `service`.
"""

import faulthandler
import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from shellrunner import log
from shellrunner.config import Settings, check_rereadable, load
from shellrunner.errors import ShellrunnerError
from shellrunner.service import run

FILE = click.Path(path_type=Path)
_FAILED = 1


@click.command()
@click.option("--config", type=FILE, help="A TOML file; none: the defaults.")
@click.option("--host", help="Where to listen, instead of server.host.")
@click.option("--port", type=int, help="Instead of server.port; 0: any free port.")
@click.option(
    "--listen", multiple=True, metavar="ADDRESS", help="Instead of both: unix:/PATH or ADDRESS:PORT; may be repeated."
)
@click.option("--state-dir", type=FILE, help="Where the history lies, instead of store.state_dir.")
def serve(
    config: Path | None, host: str | None, port: int | None, listen: tuple[str, ...], state_dir: Path | None
) -> None:
    """Serve until SIGTERM or SIGINT."""
    state_dir = state_dir and state_dir.absolute()
    said = {"server": _where(host, port, listen), "store": _given(state_dir=state_dir)}
    read = partial(load, config, **said)
    settings = read()
    log.set_up(settings.log.level)
    # On SIGABRT, which systemd sends when the watchdog barks, it says where every thread was.
    if sys.stderr:
        faulthandler.enable()
    try:
        sys.exit(run(settings, partial(_read_again, config, read)))
    except ShellrunnerError:
        raise
    except Exception:
        # A border: what nobody expected is for the log, on one line, and systemd starts it anew.
        logging.getLogger("shellrunner.cli").critical("the service failed", exc_info=True)
        sys.exit(_FAILED)


def _read_again(config: Path | None, read: Callable[[], Settings]) -> Settings:
    """The settings as they are now.

    Raises:
        ConfigError: they are wrong, or came by a pipe (`<(…)`), which is good for the start only.
    """
    if config:
        check_rereadable(config)
    return read()


def _where(host: str | None, port: int | None, listen: tuple[str, ...]) -> dict[str, Any]:
    """What is said about where to listen; it goes before all that the configuration says of it."""
    one = _given(host=host, port=port)
    if one and listen:
        raise click.UsageError("--listen goes without --host and --port")
    return {**one, "listen": list(listen)} if one or listen else {}


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
