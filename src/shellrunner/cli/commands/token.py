"""`shellrunner token create` and `shellrunner token list`: who may do what.

Neither needs a running service, or has a database: a token is some lines in the configuration.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, get_args

import click
from pydantic import TypeAdapter, ValidationError

from shellrunner.cli.ui import formatting
from shellrunner.cli.ui.table import Cell, Column, rendered
from shellrunner.config import Token, load
from shellrunner.config.auth import Scope
from shellrunner.model import Name

FILE = click.Path(path_type=Path)
_SCOPES: Final = get_args(Scope)
_SPAN: Final = re.compile(r"([0-9.]+[dh])+", re.ASCII)
_COLUMNS: Final = tuple(map(Column, ("NAME", "SCOPES", "EXPIRES", "RUN AS", "COMMANDS")))


def _name(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    """Take what the configuration would take."""
    try:
        return TypeAdapter[str](Name).validate_python(value)
    except ValidationError:
        raise click.BadParameter("must be 1 to 63 letters, digits, dots, dashes or underscores") from None


def _user(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Take what can be written down; whether there is such a user is for the host that the service runs on."""
    if value is not None and not (value and value.isprintable()):
        raise click.BadParameter("must be the name of a user")
    return value


def _time(_ctx: click.Context, _param: click.Parameter, value: str | None) -> datetime | None:
    """Take a time that lies ahead, or how far."""
    if value is None:
        return None
    now = datetime.now(UTC).replace(microsecond=0)
    try:
        moment = now + timedelta(seconds=formatting.seconds(value)) if _SPAN.fullmatch(value) else _moment(value)
    except (ValueError, OverflowError):
        raise click.BadParameter("must be a span as 90d or 12h, or a date as 2027-01-01 (in UTC)") from None
    if moment <= now:
        raise click.BadParameter("must lie ahead")
    return moment


@click.group()
def token() -> None:
    """Make tokens, and list those of a configuration."""


@token.command(short_help="Make a token.")
@click.argument("name", callback=_name)
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(_SCOPES),
    multiple=True,
    default=("read", "run"),
    show_default="read and run",
    help="What it is good for; may be repeated.",
)
@click.option(
    "--expires", metavar="WHEN", callback=_time, help="When it ends: 90d, 12h or 2027-01-01 (UTC); as shipped never."
)
@click.option(
    "--run-as", metavar="USER", callback=_user, help="The user of its commands, if the service runs as root."
)
def create(name: str, scopes: tuple[str, ...], expires: datetime | None, run_as: str | None) -> None:
    """Print a new token on standard output, and its lines for the configuration on standard error."""
    made = f"srt_{secrets.token_urlsafe(32)}"
    for line in _lines(name, made, scopes, expires, run_as):
        click.echo(line, err=True)
    click.echo(made)


@token.command("list", short_help="List the tokens of a configuration.")
@click.option("--config", type=FILE, help="The file that the service is started with; none: the defaults.")
def list_(config: Path | None) -> None:
    """List the tokens of a configuration, by their names."""
    tokens = load(config).auth.tokens
    if tokens:
        click.echo(rendered(_COLUMNS, [[*map(Cell, _row(each))] for each in tokens]))
    else:
        click.echo("no tokens: only processes of the user that the service runs as are served", err=True)


def _lines(
    name: str, made: str, scopes: tuple[str, ...], expires: datetime | None, run_as: str | None
) -> Iterator[str]:
    """What the configuration has of a token: TOML, also what is said to people."""
    yield "# These lines go at the end of config.toml, or of the file that auth.tokens_file names; others must not be"
    yield "# able to read that (chmod 600). Then: systemctl reload shellrunner. The token itself is not shown again."
    yield "[[auth.tokens]]"
    yield f'name = "{name}"'
    yield f'sha256 = "{hashlib.sha256(made.encode()).hexdigest()}"'
    yield f"scopes = {json.dumps([scope for scope in _SCOPES if scope in scopes])}"
    if expires is not None:
        yield f"expires = {_toml(expires)}"
    if run_as is not None:
        yield f"run_as = {json.dumps(run_as, ensure_ascii=False)}"


def _row(each: Token) -> tuple[str, ...]:
    expires = "never" if each.expires is None else _toml(each.expires.astimezone(UTC))
    if each.is_expired(datetime.now(UTC)):
        expires += " (over)"
    commands = "any" if each.commands is None else f"{len(each.commands)} rules"
    return each.name, ",".join(each.scopes), expires, each.run_as or "-", commands


def _moment(text: str) -> datetime:
    """A date, which begins at midnight, or a time; in UTC unless it says where.

    Raises:
        ValueError: it is none.
    """
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _toml(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
