"""Who a client is and what it may do: tokens, peer credentials, sessions, allowed commands, policy for jobs.

Built by the composition root; used by the web side. Must not know HTTP, SQL, or what a route does. Everything here
allows by name: what is not named is rejected.
"""

from dataclasses import dataclass
from typing import Final

from shellrunner.config import Token
from shellrunner.config.auth import Scope
from shellrunner.model import Submitter

ALL_SCOPES: Final[frozenset[Scope]] = frozenset({"read", "run", "admin"})


@dataclass(frozen=True, slots=True)
class Identity:
    """An authenticated client. `name` is `token:NAME` or `uid:1000`: for the log, the audit and Idempotency-Keys.

    `token` is None for a process of the service's own user, which may do everything; `on_unix_socket` says whether it
    is connected to one, where it needs no token even if there are some. `session` is the digest of the session
    cookie, if that was used to authenticate: it allows watching only.
    """

    name: str
    scopes: frozenset[Scope]
    token: Token | None = None
    session: bytes | None = None
    on_unix_socket: bool = False

    @property
    def run_as(self) -> str | None:
        """The system user of its commands; None: the service's own."""
        return None if self.token is None else self.token.run_as

    @property
    def profile(self) -> str | None:
        """The profile of its jobs; None: that of a job itself or of its queue."""
        return None if self.token is None else self.token.profile

    @property
    def is_restricted(self) -> bool:
        """Whether it may change only its own jobs, since others could be commands that it may not start itself."""
        token = self.token
        return token is not None and (token.run_as, token.commands, token.profile) != (None, None, None)

    @property
    def sees_all(self) -> bool:
        """Whether it may read the jobs of others. If not, those do not exist for it, whatever it asks."""
        return "read" in self.scopes

    @property
    def kill_only(self) -> bool:
        """Whether what ends its commands is KILL, as it must not choose which step of one a signal ends."""
        return self.token is not None and self.token.commands is not None

    @property
    def submitter(self) -> Submitter:
        """The identity as the history knows it."""
        return Submitter(self.name, self.run_as, sees_all=self.sees_all, kill_only=self.kill_only)


def service_user(uid: int, *, on_unix_socket: bool = False) -> Identity:
    """Return the identity of a process of the service's own user."""
    return Identity(f"uid:{uid}", ALL_SCOPES, on_unix_socket=on_unix_socket)
