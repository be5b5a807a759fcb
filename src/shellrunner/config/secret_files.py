"""Tokens in files: who may read those, what is in the one that `auth.tokens_file` names, and whom the tokens run as.

Owned by `config.load`. Such a file has the lines that `shellrunner token create` prints, and nothing else.
"""

import contextlib
import os
import stat
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from pydantic import Field, ValidationError

from shellrunner.config import error_messages
from shellrunner.config.auth import AuthSettings, Token, apart
from shellrunner.config.types import Section
from shellrunner.errors import ConfigError

# Its group may read it (systemd gives credentials to their user by an access control list, which shows up there);
# others may not, and nobody else may write it.
_TOO_OPEN: Final = stat.S_IRWXO | stat.S_IWGRP


class _Tokens(Section):
    tokens: list[Token] = Field(default_factory=list)


class _TokensFile(Section):
    auth: _Tokens = Field(default_factory=_Tokens)


def with_more_tokens(auth: AuthSettings) -> AuthSettings:
    """Add what the tokens' own file has.

    Raises:
        ConfigError: others can read it, or it is not what it should be.
    """
    path = auth.tokens_file
    if path is None:
        return auth
    check_lasting(path)
    text = error_messages.read(path)
    wrong = [*complaints_of(path)]
    sources = error_messages.ConfigSources({}, {}, path, text)
    tokens: list[Token] = []
    try:
        more = _TokensFile.model_validate(tomllib.loads(text))
        wrong += complaints_of_users(more.auth.tokens, sources)
        tokens = apart([*auth.tokens, *more.auth.tokens])
    except ValidationError as error:
        wrong += [error_messages.complaint(problem, sources, _TokensFile) for problem in error.errors()]
    except ValueError as error:
        wrong.append(error_messages.words(("auth", "tokens"), sources, str(error)))
    if wrong:
        raise ConfigError("\n".join(wrong))
    return auth.model_copy(update={"tokens": tokens})


def check_lasting(path: Path) -> None:
    """Refuse a pipe where a file is read again at SIGHUP.

    By then it is empty, and an empty configuration has no tokens; or its reader waits, perhaps for ever, and no token
    is revoked any more.

    Raises:
        ConfigError: it is one.
    """
    with contextlib.suppress(OSError):  # told by who reads it
        if stat.S_ISFIFO(os.stat(path).st_mode):
            raise ConfigError(f"{path}: is a pipe, which can be read only once: it must be a file")


def complaints_of(path: Path, what: str = "tokens") -> Iterator[str]:
    """Complain of a file with secrets that others can read or change."""
    try:
        status = os.stat(path)
    except OSError as error:
        yield f"{path}: cannot be read: {error.strerror}"
        return
    if stat.S_IMODE(status.st_mode) & _TOO_OPEN:
        yield f"{path}: has {what}, and others can read or change it: chmod 600 {path}"
    if status.st_uid not in {0, os.geteuid()}:
        yield f"{path}: has {what}, and belongs to another user (uid {status.st_uid})"


def complaints_of_users(tokens: Iterable[Token], sources: error_messages.ConfigSources) -> Iterator[str]:
    """Complain of tokens whose commands cannot run as whom they should."""
    for number, token in enumerate(tokens):
        if reason := token.cannot_run():
            yield error_messages.words(("auth", "tokens", number, "run_as"), sources, reason)
