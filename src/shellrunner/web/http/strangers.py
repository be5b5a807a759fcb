"""Connections on which nobody was authenticated yet, by their sources, and which of them makes way for others.

Owned by `connections`. OpenSSH's MaxStartups is the model, but a new connection is never refused for those before it:
one that waits makes way, so that every client can authenticate itself. Must not know requests, or close anything.
"""

from collections.abc import Iterator
from typing import Protocol

from shellrunner.web.http.sources import Source


class Stranger(Protocol):
    """A connection, as far as it matters here."""

    source: Source

    @property
    def age(self) -> float:
        """Seconds since it was accepted, or since the request on it that was rejected."""

    def identify(self) -> None:
        """Replace a provisional source by what the kernel knows."""


class Strangers:
    """All of them, by source, the oldest first."""

    def __init__(self) -> None:
        self._by_source: dict[str, dict[Stranger, None]] = {}
        self._identified: set[Stranger] = set()
        self._count = 0

    def __len__(self) -> int:
        """Return how many there are."""
        return self._count

    def add(self, stranger: Stranger) -> None:
        """Count one more, unless it turns out to be no stranger's."""
        if stranger.source.is_provisional and self._identified:  # users had to be distinguished, and still have to
            self._identify(stranger)
        else:
            self._by_source.setdefault(stranger.source.key, {})[stranger] = None
            self._count += 1

    def remove(self, stranger: Stranger) -> None:
        """Count one less, if it is one."""
        group = self._by_source.get(stranger.source.key, {})
        if stranger not in group:
            return
        del group[stranger]
        if not group:
            del self._by_source[stranger.source.key]
        self._identified.discard(stranger)
        self._count -= 1

    def over_share(self, source: str, share: int, grace: float) -> Iterator[Stranger]:
        """Yield the oldest of a source until it has no more than its share; the caller removes each.

        What is younger than `grace` (seconds) stays, because a client may open many at once to use each of them. So
        do proxies, which have many clients.
        """
        while len(group := self._by_source.get(source, {})) > share:
            oldest = next(iter(group))
            if oldest.source.is_provisional:
                for each in tuple(group):
                    self._identify(each)
                for found in dict.fromkeys(each.source.key for each in self._identified):
                    yield from self.over_share(found, share, grace)
            elif oldest.source.is_proxy or oldest.age < grace:
                return
            else:
                yield oldest

    def all_over_share(self, share: int, grace: float) -> Iterator[Stranger]:
        """Yield what `over_share` does, of every source."""
        for source in tuple(self._by_source):
            yield from self.over_share(source, share, grace)

    def first_to_go(self, limit: int = 0) -> Stranger | None:
        """Return the oldest of the source that has most, so that clients with few are the last to suffer.

        None if there are no more than `limit`, or turn out to be no more.
        """
        while self._count > limit:
            _, group = max(self._by_source.items(), key=lambda each: len(each[1]))
            oldest = next(iter(group))
            if not oldest.source.is_provisional:
                return oldest
            self._identify(oldest)
        return None

    def _identify(self, stranger: Stranger) -> None:
        self.remove(stranger)
        stranger.identify()
        if not stranger.source.is_own:
            self.add(stranger)
            self._identified.add(stranger)
