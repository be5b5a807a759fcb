"""`shellrunner token create` and `shellrunner token list`: the tokens of a configuration.

A token is a table in the configuration. Must not know a running service or a database.
"""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, get_args

import click
from pydantic import TypeAdapter, ValidationError

from shellrunner.cli.ui import formatting
from shellrunner.cli.ui.table import Cell, Column, render_table
from shellrunner.config import Token, load
from shellrunner.config.auth import Scope, source_network
from shellrunner.config.new_token import format_time, token_table
from shellrunner.config.token_hash import create_secret
from shellrunner.model import Name

_PATH: Final = click.Path(path_type=Path)
_SCOPES: Final = get_args(Scope)
_DURATION: Final = re.compile(r"([0-9.]+[dh])+", re.ASCII)
# Not chmod 600: after `shellrunner install` the file belongs to root, and the service reads it as the file's group.
_INSTRUCTIONS: Final = """\
# Append this to config.toml or to the file that auth.tokens_file names, which other users must not be able to read
# (chmod o= FILE). Then run: systemctl reload shellrunner. The token itself will not be shown again."""
_COLUMNS: Final = tuple(map(Column, ("NAME", "SCOPES", "EXPIRES", "RUN AS", "PROFILE", "COMMANDS", "LIMITS")))


def _check_name(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Accept what the configuration accepts."""
    if value is None:
        return None
    try:
        return TypeAdapter[str](Name).validate_python(value)
    except ValidationError:
        raise click.BadParameter("must be 1 to 63 letters, digits, dots, dashes or underscores") from None


def _check_user(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Accept any printable name: whether the user exists is checked on the host of the service."""
    if value is not None and not (value and value.isprintable()):
        raise click.BadParameter("must be the name of a user")
    return value


def _check_networks(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Return them in their canonical form."""
    try:
        return tuple(map(source_network, values))
    except ValueError as error:
        raise click.BadParameter(f'{error}, or "unix"') from None


def _parse_expiry(_ctx: click.Context, _param: click.Parameter, value: str | None) -> datetime | None:
    """Parse a time in the future, or a duration from now."""
    if value is None:
        return None
    now = datetime.now(UTC).replace(microsecond=0)
    try:
        is_duration = _DURATION.fullmatch(value)
        moment = now + timedelta(seconds=formatting.parse_duration(value)) if is_duration else _parse_time(value)
    except (ValueError, OverflowError):
        raise click.BadParameter(
            "must be a duration such as 90d or 12h, or a date (UTC) such as 2027-01-01"
        ) from None
    if moment <= now:
        raise click.BadParameter("must be in the future")
    return moment


@click.group()
def token() -> None:
    """Create tokens, and list those of a configuration."""


@token.command(short_help="Create a token.")
@click.argument("name", callback=_check_name)
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(_SCOPES),
    multiple=True,
    default=("read", "run"),
    show_default="read and run",
    help="What the token allows. Repeatable.",
)
@click.option(
    "--expires", metavar="WHEN", callback=_parse_expiry, help="Expiry: 90d, 12h or 2027-01-01 (UTC) (default: never)."
)
@click.option(
    "--run-as",
    metavar="USER",
    callback=_check_user,
    help="User that its commands run as; requires a service that runs as root.",
)
@click.option("--profile", metavar="NAME", callback=_check_name, help="Profile that confines its jobs.")
@click.option("--max-queued", type=click.IntRange(1), help="Maximum number of its unstarted jobs.")
@click.option("--max-running", type=click.IntRange(1), help="Maximum number of its running jobs.")
@click.option("--requests-per-second", type=click.IntRange(1), help="Requests it may send per second, on average.")
@click.option(
    "--network",
    "networks",
    metavar="NETWORK",
    multiple=True,
    callback=_check_networks,
    help="Network from which it may be used, or unix for the Unix socket. Repeatable (default: any).",
)
def create(name: str, scopes: tuple[str, ...], expires: datetime | None, **restrictions: Any) -> None:
    """Print a new token to standard output, and its table for the configuration to standard error."""
    secret = create_secret()
    click.echo(_INSTRUCTIONS, err=True)
    for line in token_table(name, secret, [scope for scope in _SCOPES if scope in scopes], expires, restrictions):
        click.echo(line, err=True)
    click.echo(secret)


@token.command("list", short_help="List the tokens of a configuration.")
@click.option("--config", type=_PATH, help="Configuration file of the service (default: none).")
def list_(config: Path | None) -> None:
    """List the tokens of a configuration."""
    tokens = load(config).auth.tokens
    if tokens:
        click.echo(render_table(_COLUMNS, [[*map(Cell, _row(token))] for token in tokens]))
    else:
        click.echo("no tokens: only processes of the user that the service runs as may connect", err=True)


def _row(token: Token) -> tuple[str, ...]:
    expires = "never" if token.expires is None else format_time(token.expires)
    if token.is_expired(datetime.now(UTC)):
        expires += " (expired)"
    commands = "any" if token.commands is None else f"{len(token.commands)} rule{'s' * (len(token.commands) != 1)}"
    scopes = ",".join(token.scopes)
    return token.name, scopes, expires, token.run_as or "-", token.profile or "-", commands, _limits(token) or "-"


def _limits(token: Token) -> str:
    limits = {
        "queued": token.max_queued,
        "running": token.max_running,
        "requests/s": token.requests_per_second and f"{token.requests_per_second:g}",
    }
    shares = [f"{limit} {name}" for name, limit in limits.items() if limit is not None]
    return ", ".join([*shares, *(token.networks or ())])


def _parse_time(text: str) -> datetime:
    """Parse a date (midnight), or a time; UTC is the default time zone.

    Raises:
        ValueError: `text` is neither.
    """
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
