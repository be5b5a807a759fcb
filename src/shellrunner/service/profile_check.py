"""Profiles at the start: the service's own files are hidden, and each profile is tried before it is needed.

Owned by the composition root. Must not know how a profile is applied.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Final

from shellrunner.config import Settings
from shellrunner.errors import ConfigError
from shellrunner.supervisor.confinement import Confinement
from shellrunner.supervisor.users import NoSuchUser, UserAccounts

# A directory in which others have files too cannot be hidden for the sake of a socket in it.
_SHARED: Final = frozenset(map(Path, ("/", "/etc", "/home", "/opt", "/srv", "/usr", "/var", "/var/lib")))
_ALWAYS_HIDDEN: Final = (Path("/run"), Path("/var/run"))
_TEMPORARY: Final = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108  they are private by default


async def open_confinement(settings: Settings, state_dir: Path, passed: Sequence[socket.socket]) -> Confinement:
    """Return the profiles, which can be applied: each was tried for every user for whose commands it may be used.

    Raises:
        ConfigError: one of them cannot be applied.
    """
    if not settings.profiles:
        return Confinement({})
    sockets = list(_socket_directories(settings, passed))
    confinement = Confinement(settings.profiles, [str(path) for path in (state_dir, *sockets, *_files(settings))])
    errors = [error async for error in _failures(settings, confinement)]
    if errors:
        raise ConfigError("\n".join(errors))
    return confinement


async def _failures(settings: Settings, confinement: Confinement) -> AsyncIterator[str]:
    accounts = UserAccounts(settings.jobs)
    users = dict.fromkeys((None, *(token.run_as for token in settings.auth.tokens)))
    for name in settings.profiles:
        for user in users:
            try:
                account = await accounts.look_up(user)
            except NoSuchUser:  # reported with each job
                continue
            if reason := await asyncio.to_thread(confinement.check, name, account):
                words = "" if user is None else f" to commands of {user}"
                yield f"profiles.{name}: cannot be applied{words}: {reason}"


def _files(settings: Settings) -> Iterator[Path]:
    """Yield the files and directories with secrets, but for the state directory."""
    credentials = os.environ.get("CREDENTIALS_DIRECTORY", "")
    candidates = (
        settings.file and settings.file.absolute(),
        settings.auth.tokens_file,
        settings.callbacks.secret_file,
        settings.store.url_file,
        settings.server.tls_key,
        settings.audit.file,
        Path(credentials) if credentials.startswith("/") else None,
    )
    yield from (path for path in candidates if path is not None)


def _socket_directories(settings: Settings, passed: Sequence[socket.socket]) -> Iterator[Path]:
    """Yield the directories of the sockets on which the service listens.

    Not the sockets: the service makes them again when it starts, and a running command would see the new ones.

    Raises:
        ConfigError: a socket is in a directory of others, or has no path.
    """
    names = [each.getsockname() for each in passed if each.family == socket.AF_UNIX]
    paths = [os.fsdecode(name) for name in names] or [each.path for each in settings.server.addresses if each.path]
    for path in paths:
        if not path.startswith("/"):
            if any(profile.network for profile in settings.profiles.values()):
                raise ConfigError(f"an abstract socket cannot be hidden from a profile with network: {path[1:]!r}")
            continue
        directory = Path(path).parent.resolve()
        if directory in _TEMPORARY and not all(each.private_tmp for each in settings.profiles.values()):
            raise ConfigError(f"profiles need private_tmp, because the service listens on {path}")
        if directory in _SHARED or directory == Path.home():
            raise ConfigError(f"with profiles, the socket {path} must be in a directory of its own, or in /run")
        if directory not in (*_ALWAYS_HIDDEN, *_TEMPORARY):
            yield directory
