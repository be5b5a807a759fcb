"""Whom commands run as: a user's numbers, groups and home, looked up by name and remembered for a while.

Owned by the supervisor. Knows the system's users (getpwnam(3), getgrouplist(3)); must not know jobs or keepers.
"""

import asyncio
import os
import pwd
import time
from typing import Any, Final, NamedTuple

from shellrunner.config import JobDefaults, service_user

_REMEMBERED: Final = 60.0  # seconds; after that it is noticed that a user is gone, or has other groups


class NoSuchUser(Exception):
    """Nobody here has this name, or nothing can be started as them; the words are for `detail`."""


class UserAccount(NamedTuple):
    """A user as a `start` message has it (None: the service's own), and what its commands find around them."""

    user: dict[str, Any] | None
    environment: dict[str, str]
    cwd: str


class UserAccounts:
    """The users that commands run as; `own` is the service's."""

    def __init__(self, jobs: JobDefaults) -> None:
        """Surround commands as `jobs` says."""
        self._jobs = jobs
        self._known: dict[str, tuple[float, UserAccount]] = {}
        self.own = UserAccount(None, *jobs.process_defaults(service_user()))

    async def of(self, name: str | None) -> UserAccount:
        """Look a user up, unless that was done lately; None is the service's own.

        Raises:
            NoSuchUser.
        """
        if name is None:
            return self.own
        expires, account = self._known.get(name, (0.0, self.own))
        if time.monotonic() >= expires:
            # On a thread: the answer may come from a directory on the network.
            account = await asyncio.to_thread(self._look_up, name)
            self._known[name] = (time.monotonic() + _REMEMBERED, account)
        return account

    def _look_up(self, name: str) -> UserAccount:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            raise NoSuchUser(f"cannot run as {name}: there is no such user") from None
        uid, gid = entry.pw_uid, entry.pw_gid
        if uid == os.geteuid():
            return self.own
        try:
            process_defaults = self._jobs.process_defaults(entry)
        except ValueError as error:
            raise NoSuchUser(f"cannot run as {name}: the user's entry {error}") from None
        return UserAccount({"uid": uid, "gid": gid, "groups": os.getgrouplist(name, gid)}, *process_defaults)
