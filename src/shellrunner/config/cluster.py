"""Settings of `[worker]` and `[cluster]`: this node among those that share a history in PostgreSQL.

Validated by `config.load`. They mean nothing without `store.url`. Must not know how jobs are delivered.
"""

import os
import re
from typing import Annotated

from pydantic import Field

from shellrunner.config.server import Address, ListenAddresses, parse_address
from shellrunner.config.types import ZERO_IS_NONE, Section
from shellrunner.model import Name
from shellrunner.model.names import MAX_NAME_LENGTH


def _host_name() -> str:
    """Return the host's name in the form of a name; sethostname(2) takes any bytes."""
    return re.sub("[^A-Za-z0-9._-]", "-", os.uname().nodename)[:MAX_NAME_LENGTH] or "localhost"


class WorkerSettings(Section):
    """This node, if the history is in PostgreSQL: how other nodes name it, and which jobs it takes."""

    name: Name = Field(
        default_factory=_host_name,
        description="name of this node, which no other has, and which stays while its jobs run: 1 to 63 letters, "
        "digits, dots, dashes or underscores; default: the host's name",
    )
    queues: list[Name] = Field(default_factory=list, description="queues whose jobs it takes; empty: all")
    listen: ListenAddresses = Field(
        default_factory=list,
        description="addresses at which `shellrunner worker` serves /healthz, /readyz and /metrics, in the form of "
        "server.listen; the other settings of [server] and the tokens count as for `serve`; empty: none",
    )

    @property
    def addresses(self) -> list[Address]:
        """Return the addresses to listen on."""
        return [parse_address(text) for text in self.listen]


class ClusterSettings(Section):
    """All nodes that share a history in PostgreSQL; the same on each."""

    lost_after: Annotated[float | None, ZERO_IS_NONE] = Field(
        600.0,
        ge=0,
        description="seconds after which running jobs of an unreachable host are `lost`; 0: only when there is proof",
    )
