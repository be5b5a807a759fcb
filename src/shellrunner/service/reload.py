"""Reload on SIGHUP what may change while the service runs: tokens and the certificate.

Owned by the composition root. Either everything is applied or nothing. Must not know what a token permits.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from shellrunner.access.authenticator import Authenticator
from shellrunner.config import AuthSettings, Settings, with_auth
from shellrunner.errors import ConfigError, StoreUnavailable
from shellrunner.service.limits import submitter_limits
from shellrunner.service.network.tls import Certificate
from shellrunner.store import SubmitterLimit

log = logging.getLogger("shellrunner.service")


class LimitedStore(Protocol):
    """Applies the limits of submitters."""

    def limit_submitters(self, limits: Mapping[str, SubmitterLimit]) -> None:
        """Apply these limits from now on."""


class Reopenable(Protocol):
    """A file that may have been rotated."""

    async def reopen(self) -> None:
        """Reopen it."""


class Reloader:
    """Applies a changed configuration to the running service."""

    def __init__(
        self, settings: Settings, reread: Callable[[], Settings], check: Callable[[AuthSettings], None] | None = None
    ) -> None:
        """Start from `settings`; `reread` reads them again, as at the start.

        `check` raises ConfigError if the open listeners must not go on with that `auth`.
        """
        self._settings, self._reread, self._check = settings, reread, check
        self._requested = asyncio.Event()

    def request(self) -> None:
        """Request a reload, as SIGHUP does."""
        self._requested.set()

    async def run(
        self,
        authenticator: Authenticator | None,
        certificate: Certificate | None,
        store: LimitedStore,
        audit: Reopenable | None = None,
    ) -> None:
        """Reload whenever requested, until cancelled; reopen the audit file, even if nothing else is applied.

        A worker has none of them but the store, which applies the limits of tokens.
        """
        if authenticator is not None:
            _warn_expired(self._settings.auth)
        await _flush_sessions(authenticator)  # a token removed since the last start ends its sessions
        while True:
            await self._requested.wait()
            self._requested.clear()  # before the file is read: it may change, with another signal, during that
            if audit is not None:
                await audit.reopen()
            try:
                await self._reload(authenticator, certificate, store)
            except ConfigError as error:
                reasons = error.detail.splitlines()
                log.error("not reloaded; the previous configuration stays in force", extra={"reasons": reasons})  # noqa: TRY400

    async def _reload(
        self, authenticator: Authenticator | None, certificate: Certificate | None, store: LimitedStore
    ) -> None:
        read = await asyncio.to_thread(self._reread)
        before, now = self._settings, with_auth(self._settings, read.auth)
        if self._check:
            self._check(read.auth)
        if certificate:
            certificate.reload()
        if authenticator is not None:
            authenticator.reload(read.auth)
        store.limit_submitters(submitter_limits(read.auth))
        self._settings = now
        log.info("reloaded", extra={"changed": _differences(before, now), **_token_changes(before.auth, read.auth)})
        if pending := _differences(now, read):
            log.warning("other changes need a restart", extra={"settings": pending})
        if authenticator is not None:
            _warn_expired(read.auth)
        await _flush_sessions(authenticator)


async def _flush_sessions(authenticator: Authenticator | None) -> None:
    if authenticator is None:
        return
    try:
        await authenticator.flush_sessions()
    except StoreUnavailable as error:
        log.warning("could not remove ended sessions from the history", extra={"reason": error.detail})


def _differences(before: Settings, after: Settings) -> list[str]:
    """Return the names of the settings that differ."""
    old, new = before.model_dump(), after.model_dump()
    return [f"{section}.{key}" for section in old for key in _unequal(old[section], new[section])]


def _unequal(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [key for key in {**old, **new} if key not in old or key not in new or old[key] != new[key]]


def _token_changes(before: AuthSettings, after: AuthSettings) -> dict[str, list[str]]:
    """Return the names of the tokens that were added, removed or changed, by kind; kinds without any are left out."""
    old, new = ({token.name: token for token in auth.tokens} for auth in (before, after))
    found = {
        "tokens_added": [name for name in new if name not in old],
        "tokens_removed": [name for name in old if name not in new],
        "tokens_changed": [name for name in new if name in old and new[name] != old[name]],
    }
    return {kind: names for kind, names in found.items() if names}


def _warn_expired(auth: AuthSettings) -> None:
    now = datetime.now(UTC)
    if expired := [token.name for token in auth.tokens if token.is_expired(now)]:
        log.warning("tokens have expired and are rejected", extra={"tokens": expired})
