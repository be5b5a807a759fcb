"""Files with secrets: their permissions, and the content of those that are named in place of a secret.

These are `auth.tokens_file`, `callbacks.secret_file` and `store.url_file`. Also whether commands can run as the users
that tokens name (`run_as`).

Used by `config.load`. A tokens file has the lines that `shellrunner token create` prints, and nothing else.
"""

import contextlib
import os
import stat
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from pydantic import Field, ValidationError

from shellrunner.config import error_messages
from shellrunner.config.auth import AuthSettings, Token, require_unique_tokens
from shellrunner.config.store_settings import postgres_url
from shellrunner.config.types import Section, webhook_secret
from shellrunner.errors import ConfigError

# The group may read it: systemd grants access to credentials by an access control list, which shows up as the group's
# bits. Others may not read it, and only its owner may write it.
_TOO_PERMISSIVE: Final = stat.S_IRWXO | stat.S_IWGRP


class _Tokens(Section):
    tokens: list[Token] = Field(default_factory=list)


class _TokensFile(Section):
    auth: _Tokens = Field(default_factory=_Tokens)


def with_token_file(auth: AuthSettings) -> AuthSettings:
    """Return `auth` with the tokens of `auth.tokens_file` added.

    Raises:
        ConfigError: the file is invalid, or others can read it.
    """
    path = auth.tokens_file
    if path is None:
        return auth
    check_rereadable(path)
    text = error_messages.read(path)
    errors = [*check_private(path)]
    sources = error_messages.ConfigSources({}, {}, path, text)
    tokens: list[Token] = []
    try:
        more = _TokensFile.model_validate(tomllib.loads(text))
        errors += check_run_as(more.auth.tokens, sources)
        tokens = require_unique_tokens([*auth.tokens, *more.auth.tokens])
    except ValidationError as error:
        errors += [error_messages.format_problem(problem, sources, _TokensFile) for problem in error.errors()]
    except ValueError as error:
        errors.append(error_messages.format_error(("auth", "tokens"), sources, str(error)))
    if errors:
        raise ConfigError("\n".join(errors))
    return auth.model_copy(update={"tokens": tokens})


def read_webhook_secret(path: Path) -> str:
    """Return the secret that signs results, which is alone in a file.

    Raises:
        ConfigError: the file is invalid, or others can read it; the text does not repeat the secret.
    """
    return _read_secret(path, "the secret of callbacks", webhook_secret)


def read_store_url(path: Path) -> str:
    """Return the URL of a PostgreSQL database, which is alone in a file.

    Raises:
        ConfigError: the file is invalid, or others can read it; the text does not repeat the URL.
    """
    return _read_secret(path, "the URL of PostgreSQL", postgres_url)


def _read_secret(path: Path, what: str, validate: Callable[[str], str]) -> str:
    check_rereadable(path)
    errors = [*check_private(path, what)]
    secret = ""
    try:
        # Editors add a byte order mark or the end of a line.
        secret = validate(path.read_text("utf-8-sig").strip(" \t\r\n"))
        if not secret:
            errors.append(f"{path}: is empty: expected {what}")
    except OSError as error:
        errors = [f"{path}: cannot be read: {error.strerror}"]
    except UnicodeDecodeError:
        errors.append(f"{path}: not UTF-8")
    except ValueError as error:
        errors.append(f"{path}: {error}")
    if errors:
        raise ConfigError("\n".join(errors))
    return secret


def check_rereadable(path: Path) -> None:
    """Reject a pipe as a file that is read again at SIGHUP.

    By then it is empty, and an empty configuration has no tokens; or the read blocks, perhaps for ever, and no token
    can be revoked any more.

    Raises:
        ConfigError: the file is a pipe.
    """
    with contextlib.suppress(OSError):  # reported when it is read
        if stat.S_ISFIFO(os.stat(path).st_mode):
            raise ConfigError(f"{path}: must be a regular file: a pipe cannot be read again at SIGHUP")


def check_private(path: Path, what: str = "tokens") -> Iterator[str]:
    """Check that only its owner can read and change a file with secrets; yield an error for each problem."""
    try:
        status = os.stat(path)
    except OSError as error:
        yield f"{path}: cannot be read: {error.strerror}"
        return
    if stat.S_IMODE(status.st_mode) & _TOO_PERMISSIVE:
        yield f"{path}: contains {what}, but other users can read or change it: chmod g-w,o= {path}"
    if status.st_uid not in {0, os.geteuid()}:
        yield f"{path}: contains {what}, but belongs to another user (uid {status.st_uid})"


def check_writers(path: Path) -> Iterator[str]:
    """Check that not everybody can change a file; yield an error if they can: they could name commands and users."""
    try:
        mode = os.stat(path).st_mode
    except OSError:  # reported when it is read
        return
    if stat.S_ISREG(mode) and mode & stat.S_IWOTH:
        yield f"{path}: every user can change it: chmod o-w {path}"


def check_run_as(tokens: Iterable[Token], sources: error_messages.ConfigSources) -> Iterator[str]:
    """Check that commands can run as each token's `run_as`; yield an error for each that cannot."""
    for number, token in enumerate(tokens):
        if reason := token.run_as_error():
            yield error_messages.format_error(("auth", "tokens", number, "run_as"), sources, reason)
