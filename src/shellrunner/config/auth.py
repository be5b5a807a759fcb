"""Who may do what: tokens with their scopes, whom their commands run as, and which commands those may be."""

import os
import pwd
import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from shellrunner.config.types import AbsolutePath, Section
from shellrunner.model import Argument, Name

Scope = Literal["read", "run", "admin"]
_CREDENTIAL: Final = "tokens"  # the name that LoadCredential= gives the file


def _hash(text: str) -> str:
    if re.fullmatch("[0-9a-fA-F]{64}", text) is None:
        raise ValueError("must be the SHA-256 of the token, 64 hex digits, as `shellrunner token create` prints it")
    return text.lower()


def _moment(value: Any) -> Any:
    """A time as TOML or JSON has it; one without its offset from UTC would be another in each place."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        moment = None
    if value is not None and (not isinstance(moment, datetime) or moment.utcoffset() is None):
        raise ValueError("must be a time with its offset from UTC, as 2027-01-01T00:00:00Z")
    return moment


class Rule(Section):
    """Commands that a token may run: one shell line, one argv, or every argv that begins with these words.

    There are no prefixes of shell lines: whoever may go on after `ls ` may write `ls ; rm -rf ~`. What else a job may
    ask for with them, and why that matters, is told by `access.commands`.
    """

    command: Argument | None = None
    argv: list[Argument] | None = Field(None, min_length=1)
    prefix: list[Argument] | None = Field(None, min_length=1)
    env: list[str] = Field(default_factory=list, description="names of variables that may be set")
    cwd: list[AbsolutePath] = Field(default_factory=list, description="directories that may be named; none: config's")
    options: list[Literal["stdin", "tty", "limits", "leave_children"]] = Field(
        default_factory=list, description="keys of a job that may be used with it"
    )

    @model_validator(mode="after")
    def _one(self) -> "Rule":
        if [self.command, self.argv, self.prefix].count(None) != 2:
            raise ValueError("needs one of command, argv and prefix")
        if self.command == "" or (self.argv or self.prefix or ["-"])[0] == "":
            raise ValueError("names no command")
        return self


class Token(Section):
    """Whoever has the token with this hash has this name, and may do this."""

    name: Name
    sha256: Annotated[str, AfterValidator(_hash)] = Field(repr=False)
    scopes: list[Scope] = Field(min_length=1)
    expires: Annotated[datetime | None, BeforeValidator(_moment)] = None
    run_as: str | None = Field(None, min_length=1, description="the user of its commands; the service must be root's")
    commands: list[Rule] | None = Field(None, min_length=1, description="what it may run; absent: anything")

    def is_over(self, now: datetime) -> bool:
        """Whether it has expired."""
        return self.expires is not None and self.expires <= now

    def cannot_run(self) -> str | None:
        """Why its commands cannot run as whom they should; None: they can."""
        if self.run_as is None:
            return None
        try:
            uid = pwd.getpwnam(self.run_as).pw_uid
        except (KeyError, ValueError):  # or no name at all: NUL in it
            return f"there is no user {self.run_as}"
        return None if os.geteuid() in {0, uid} else "needs a service that runs as root"


def _tokens_file() -> Path | None:
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    file = Path(directory, _CREDENTIAL)
    return file if directory.startswith("/") and file.is_file() else None


def apart(tokens: list[Token]) -> list[Token]:
    """Refuse two tokens of one name, and two names of one token.

    Raises:
        ValueError: there are such.
    """
    names: set[str] = set()
    hashes: dict[str, str] = {}
    for token in tokens:
        if token.name in names:
            raise ValueError(f"two tokens are called {token.name}")
        if token.sha256 in hashes:
            raise ValueError(f"{hashes[token.sha256]} and {token.name} are the same token")
        names.add(token.name)
        hashes[token.sha256] = token.name
    return tokens


class AuthSettings(Section):
    """Who may do what."""

    tokens: Annotated[list[Token], AfterValidator(apart)] = Field(
        default_factory=list, description="none: only processes of the service's own user"
    )
    tokens_file: AbsolutePath | None = Field(default_factory=_tokens_file, description="a file with more of them")
    session_cookie: bool = False
