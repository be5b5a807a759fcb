"""Who asks, and what they may do: tokens, the kernel's word on the other end, sessions, lists of allowed commands.

Built by the composition root; the web side asks it at its gate. Must not know HTTP, SQL, or what a route does. All of
it allows: what is not named is refused.
"""

from dataclasses import dataclass
from typing import Final, Literal

from shellrunner.config import Token

Scope = Literal["read", "run", "admin"]
ALL_SCOPES: Final[frozenset[Scope]] = frozenset({"read", "run", "admin"})


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody who was let in. `name` is `token:NAME` or `uid:1000`: for the log, the audit, and Idempotency-Keys.

    `token` is None for a process of the service's own user, which may do everything. `session` is the digest of the
    cookie that let it in, if one did: that is good for watching only.
    """

    name: str
    scopes: frozenset[Scope]
    token: Token | None = None
    session: bytes | None = None

    @property
    def is_session(self) -> bool:
        """Whether it was let in by a cookie."""
        return self.session is not None

    @property
    def run_as(self) -> str | None:
        """The system user of its commands; None: the service's own."""
        return None if self.token is None else self.token.run_as

    @property
    def is_restricted(self) -> bool:
        """Whether it may touch only its own jobs: else it could speak to commands that it may not start itself."""
        return self.token is not None and (self.token.run_as is not None or self.token.commands is not None)


def service_user(uid: int) -> Identity:
    """A process of the service's own user."""
    return Identity(f"uid:{uid}", ALL_SCOPES)
