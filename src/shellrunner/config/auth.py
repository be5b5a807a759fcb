"""Settings of `[auth]`: `Token` parses a table of `[[auth.tokens]]`, with its scopes, user and permitted commands.

Validated by `config.load`. Must not know how a token is checked (`access.authenticator`), or created
(`config.new_token`).
"""

import math
import os
import pwd
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from shellrunner.config.token_hash import check_hash
from shellrunner.config.types import ZERO_IS_NONE, AbsolutePath, CredentialPath, Section, network
from shellrunner.model import Argument, Name

Scope = Literal["read", "run", "admin"]
UNIX: Final = "unix"  # among the networks of a token: the Unix socket
_CREDENTIAL: Final = "tokens"  # the file's name under $CREDENTIALS_DIRECTORY, as LoadCredential= sets it


def _expiry(value: Any) -> Any:
    """Accept a TOML or JSON time; require its offset from UTC, without which it would depend on the time zone."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        moment = None
    if value is not None and (not isinstance(moment, datetime) or moment.utcoffset() is None):
        raise ValueError("must be a time with its offset from UTC, such as 2027-01-01T00:00:00Z")
    return moment


def source_network(text: str) -> str:
    """Require a network in its canonical form, or the name of the Unix socket."""
    return text if text == UNIX else network(text)


class Rule(Section):
    """A command that a token may run: one shell line, one argv, or every argv with this prefix.

    There are no prefixes of shell lines: after `ls ` a client could write `ls ; rm -rf ~`. `access.command_rules`
    documents which other keys a job may have, and why that matters.
    """

    command: Argument | None = Field(None, description="exactly this shell line")
    argv: list[Argument] | None = Field(None, min_length=1, description="exactly these arguments")
    prefix: list[Argument] | None = Field(
        None, min_length=1, description="every argument list that begins with these"
    )
    env: list[str] = Field(default_factory=list, description="names of environment variables that a job may set")
    cwd: list[AbsolutePath] = Field(
        default_factory=list, description="working directories that a job may name; empty: only jobs.cwd"
    )
    options: list[Literal["stdin", "tty", "limits", "leave_children", "signal", "profile"]] = Field(
        default_factory=list,
        description="other keys that a job may use; signal: signals may be sent to it, also by keys of a terminal",
    )

    @model_validator(mode="after")
    def _require_one(self) -> "Rule":
        if [self.command, self.argv, self.prefix].count(None) != 2:
            raise ValueError("must have exactly one of command, argv and prefix")
        if self.command == "" or (self.argv or self.prefix or ["-"])[0] == "":
            raise ValueError("must not be empty")
        return self


class Token(Section):
    """A token, known by its hash: its name, scopes and restrictions."""

    name: Annotated[Name, Field(description="shown in the log and as the submitter of jobs")]
    hash: Annotated[str, AfterValidator(check_hash)] = Field(
        repr=False, description="hash of the token, as `shellrunner token create` prints it"
    )
    scopes: list[Scope] = Field(
        min_length=1,
        description="read: look and follow; run: submit, and change, signal, cancel and delete: its own jobs, "
        "with read any; admin: make, change, pause and remove queues, see how full they are, end unknown keepers",
    )
    expires: Annotated[datetime | None, BeforeValidator(_expiry)] = Field(
        None, description="time from which it is rejected; absent: never"
    )
    run_as: str | None = Field(
        None, min_length=1, description="the system user of its commands; the service must run as root"
    )
    profile: Name | None = Field(None, description="the profile of its jobs; absent: what a job or its queue names")
    commands: list[Rule] | None = Field(None, min_length=1, description="commands it may run; absent: any")
    max_queued: Annotated[int | None, ZERO_IS_NONE] = Field(
        None, ge=0, description="maximum number of its unstarted jobs, in all queues; 0: no limit of its own"
    )
    max_running: Annotated[int | None, ZERO_IS_NONE] = Field(
        None, ge=0, description="maximum number of its running jobs, in all queues; 0: no limit of its own"
    )
    requests_per_second: Annotated[float | None, ZERO_IS_NONE] = Field(
        None, ge=0, description="requests it may send per second, on average; 0: no limit"
    )
    requests_burst: int | None = Field(
        None, ge=1, description="requests it may send at once; default: requests_per_second, rounded up"
    )
    networks: list[Annotated[str, AfterValidator(source_network)]] | None = Field(
        None,
        min_length=1,
        description='networks from which it may be used, and "unix" for the Unix socket; absent: any',
    )

    @property
    def identity(self) -> str:
        """The name of its identity, under which it submits jobs."""
        return f"token:{self.name}"

    @property
    def burst(self) -> int:
        """How many requests it may send at once."""
        return self.requests_burst or math.ceil(self.requests_per_second or 1)

    @model_validator(mode="before")
    @classmethod
    def _refuse_plain_hash(cls, table: Any) -> Any:
        if isinstance(table, dict) and "sha256" in table:
            raise ValueError(
                "has a plain SHA-256, which other programs make too: "
                "`shellrunner token create NAME` makes a token, and prints its `hash`"
            )
        return table

    @model_validator(mode="after")
    def _require_rate(self) -> Self:
        if self.requests_burst is not None and self.requests_per_second is None:
            raise ValueError("has requests_burst, which means nothing without requests_per_second")
        return self

    def is_expired(self, now: datetime) -> bool:
        """Return whether it has expired."""
        return self.expires is not None and self.expires <= now

    def run_as_error(self) -> str | None:
        """Return why its commands cannot run as `run_as`, or None if they can."""
        if self.run_as is None:
            return None
        try:
            uid = pwd.getpwnam(self.run_as).pw_uid
        except (KeyError, ValueError):  # a name with NUL
            return f"no such user: {self.run_as!r}"
        return None if os.geteuid() in {0, uid} else "requires a service that runs as root"


def _default_tokens_file() -> Path | None:
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    file = Path(directory, _CREDENTIAL)
    return file if directory.startswith("/") and file.is_file() else None


def require_unique_tokens(tokens: list[Token]) -> list[Token]:
    """Require that no two tokens share a name or a hash.

    Raises:
        ValueError: two tokens do.
    """
    names: set[str] = set()
    hashes: dict[str, str] = {}
    for token in tokens:
        if token.name in names:
            raise ValueError(f"two tokens have the name {token.name!r}")
        if token.hash in hashes:
            raise ValueError(f"{hashes[token.hash]!r} and {token.name!r} have the same hash")
        names.add(token.name)
        hashes[token.hash] = token.name
    return tokens


class AuthSettings(Section):
    """Tokens and sessions."""

    tokens: Annotated[list[Token], AfterValidator(require_unique_tokens)] = Field(
        default_factory=list, description="empty: only processes of the service's user may connect"
    )
    tokens_file: CredentialPath | None = Field(
        default_factory=_default_tokens_file,
        description="file with further tokens and nothing else, or the name of a credential",
    )
    session_cookie: bool = Field(False, description="whether POST /api/session sets a cookie for EventSource")
