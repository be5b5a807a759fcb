"""What the tests of several nodes share: two API nodes on one database, as servers of their own."""

import contextlib
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from shellrunner.store.postgres import schema
from tests.support import postgres
from tests.support.service import Service
from tests.support.tokens import hash_of, secret_of
from tests.support.waiting import until

NAME = "shell.example:8443"  # which leads to either, through a proxy say
TOKEN = "page"
_KNOW_EACH_OTHER = "SELECT count(*) = 2 AND min(seen) > max(joined) FROM hosts"


@dataclass
class TwoNodes:
    """Servers `a` and `b`, at the same port of two addresses: the name of a session's cookie has the port."""

    a: Service
    b: Service
    database: str

    @property
    def each(self) -> tuple[Service, Service]:
        """Both."""
        return self.a, self.b

    def execute(self, statement: str, *values: object) -> list[Any]:
        """Execute one statement in their database."""
        return postgres.shared().execute(statement, *values, database=self.database)


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[TwoNodes]:
    """Yield two API nodes that run jobs, and know each other."""
    server = postgres.shared()
    name = server.create_database(postgres.template(schema.migrate))
    tokens = [{"name": TOKEN, "hash": hash_of(TOKEN), "scopes": ["read", "run", "admin"]}]
    settings: dict[str, Any] = {
        "STORE__URL": server.url(name),
        "AUTH__TOKENS": json.dumps(tokens),
        "AUTH__SESSION_COOKIE": "true",
    }
    with socket.create_server(("127.0.0.2", 0)) as free:
        port = free.getsockname()[1]
    settings["SERVER__NAMES"] = json.dumps([NAME, f"127.0.0.1:{port}", f"127.0.0.2:{port}"])
    first, second = (Service(tmp_path / each, WORKER__NAME=each, **settings) for each in ("a", "b"))
    started = TwoNodes(first, second, name)
    try:
        for address, service in zip(("127.0.0.1", "127.0.0.2"), started.each, strict=True):
            service.program[-2:] = ["--listen", f"{address}:{port}"]
            service.session.headers["Authorization"] = f"Bearer {secret_of(TOKEN)}"
            await service.start()
        # Each has learned of the other: it reads their rows whenever it renews its own.
        await until(lambda: started.execute(_KNOW_EACH_OTHER) == [(True,)], what="they know each other")
        yield started
    finally:
        for service in started.each:
            await service.clear_away()
        with contextlib.suppress(psycopg.Error):
            server.drop_database(name)
