"""What may change while the service runs: who may do what, and the certificate, read again at SIGHUP.

Owned by the composition root. All of it is applied, or nothing is. Must not know what a token is good for.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from shellrunner.access.authenticator import Authenticator
from shellrunner.config import AuthSettings, Settings, with_auth
from shellrunner.errors import ConfigError, StoreUnavailable

log = logging.getLogger("shellrunner.service")


class Reloader:
    """Applies to a running service what its configuration says now."""

    def __init__(
        self, settings: Settings, reread: Callable[[], Settings], check: Callable[[AuthSettings], None] | None = None
    ) -> None:
        """`settings` are in force; `reread` makes them anew, as at the start.

        `check` raises ConfigError if what is listened on may not go on with that `auth`.
        """
        self._settings, self._reread, self._check = settings, reread, check
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Have it read again, as SIGHUP does."""
        self._asked.set()

    async def work(self, door: Authenticator, others: Sequence[Callable[[], None]] = ()) -> None:
        """Whenever asked, apply what is said now to the door and by calling the others; go on until cancelled.

        The others raise ConfigError if they cannot, and have then changed nothing.
        """
        _tell_expired(self._settings.auth)
        await _settle(door)  # a token that has gone since the last start takes its sessions along
        while True:
            await self._asked.wait()
            self._asked.clear()  # before the file is read, for it may change, and be told of, during that
            try:
                await self._reload(door, others)
            except ConfigError as error:
                reasons = error.detail.splitlines()
                log.error("not reloaded, everything stays as it was", extra={"reasons": reasons})  # noqa: TRY400

    async def _reload(self, door: Authenticator, others: Sequence[Callable[[], None]]) -> None:
        read = await asyncio.to_thread(self._reread)
        before, now = self._settings, with_auth(self._settings, read.auth)
        if self._check:
            self._check(read.auth)
        for apply in others:
            apply()
        door.reload(read.auth)
        self._settings = now
        log.info("reloaded", extra={"changed": _differences(before, now), **_tokens(before.auth, read.auth)})
        if waiting := _differences(now, read):
            log.warning("what else has changed needs a restart", extra={"settings": waiting})
        _tell_expired(read.auth)
        await _settle(door)


async def _settle(door: Authenticator) -> None:
    try:
        await door.flush_sessions()
    except StoreUnavailable as error:
        log.warning("ended sessions are still in the history", extra={"reason": error.detail})


def _differences(before: Settings, after: Settings) -> list[str]:
    """The names of the settings that are not the same."""
    old, new = before.model_dump(), after.model_dump()
    return [f"{section}.{key}" for section in old for key in _unequal(old[section], new[section])]


def _unequal(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [key for key in {**old, **new} if key not in old or key not in new or old[key] != new[key]]


def _tokens(before: AuthSettings, after: AuthSettings) -> dict[str, list[str]]:
    """Which tokens came, went, or are others than before; only what there is of it."""
    old, new = ({token.name: token for token in auth.tokens} for auth in (before, after))
    found = {
        "tokens_added": [name for name in new if name not in old],
        "tokens_removed": [name for name in old if name not in new],
        "tokens_changed": [name for name in new if name in old and new[name] != old[name]],
    }
    return {what: names for what, names in found.items() if names}


def _tell_expired(auth: AuthSettings) -> None:
    now = datetime.now(UTC)
    if expired := [token.name for token in auth.tokens if token.is_expired(now)]:
        log.warning("tokens have expired, and let nobody in", extra={"tokens": expired})
