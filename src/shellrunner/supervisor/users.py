"""The users that commands run as: ids, groups and home, looked up by name and cached for a while.

Owned by the supervisor. Knows the system's users (getpwnam(3), getgrouplist(3)); must not know jobs or keepers.
"""

import asyncio
import os
import pwd
import time
from typing import Any, Final, NamedTuple

from shellrunner.config import JobDefaults, service_user

_CACHE_TTL: Final = 60.0  # seconds until a user who was removed, or has other groups, is noticed


class NoSuchUser(Exception):
    """No such user exists, or no command can be started as them; the text is for `detail`."""


class UserAccount(NamedTuple):
    """A user as a `start` message has it (None: the service's own), and their commands' environment and directory."""

    user: dict[str, Any] | None
    environment: dict[str, str]
    cwd: str


class UserAccounts:
    """A cache of user accounts; `own` is the service's user."""

    def __init__(self, jobs: JobDefaults) -> None:
        """Take the commands' environment and directory from `jobs`."""
        self._jobs = jobs
        self._cached: dict[str, tuple[float, UserAccount]] = {}
        self.own = UserAccount(None, *jobs.process_defaults(service_user()))

    async def look_up(self, name: str | None) -> UserAccount:
        """Return a user's account, perhaps from the cache; None is the service's own user.

        Raises:
            NoSuchUser: there is none, or the entry cannot be used.
        """
        if name is None:
            return self.own
        expires, account = self._cached.get(name, (0.0, self.own))
        if time.monotonic() >= expires:
            # In a thread: the answer may come from a directory server on the network.
            account = await asyncio.to_thread(self._read_account, name)
            self._cached[name] = (time.monotonic() + _CACHE_TTL, account)
        return account

    def _read_account(self, name: str) -> UserAccount:
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
