"""The guide for several hosts: its roles are enough for the nodes, and no more than they need."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from shellrunner.store.postgres import schema
from shellrunner.store.postgres.engine.postgres_db import PostgresDb
from shellrunner.store.postgres.hosts import reconciler
from tests.support import postgres, tour
from tests.support.service import Service

ROOT = Path(__file__).parent.parent.parent
GUIDE = (ROOT / "docs/how-to/several-hosts.md").read_text()


def statements(mark: str, database: str) -> list[str]:
    """Return the statements of a block, for another database and roles of its own."""
    (block,) = [block for block in tour.blocks(GUIDE) if block.mark == mark]
    text = re.sub(r"\bshellrunner_owner\b", f"{database}_owner", block.text)
    text = re.sub(r"DATABASE shellrunner\b", f"DATABASE {database}", text)
    text = re.sub(r"\bshellrunner\b", f"{database}_node", text)
    return [each.strip() for each in text.split(";") if each.strip()]


@pytest.fixture
def urls() -> Iterator[tuple[str, str]]:
    """Yield the URLs of the owner and of the nodes' role in a database as the guide makes it."""
    server, name = postgres.shared(), "guide"
    for statement in statements("roles", name):
        server.execute(statement)
    for statement in statements("privileges", name):
        server.execute(statement, database=name)
    address = server.url(name).partition("@")[2]
    try:
        yield (
            f"postgresql://{name}_owner:change-me@{address}",
            f"postgresql://{name}_node:change-me-too@{address}",
        )
    finally:
        server.drop_database(name)
        for role in ("owner", "node"):
            server.execute(f"DROP ROLE {name}_{role}")


@pytest.mark.heavy
async def test_the_roles_of_the_guide_are_enough(urls: tuple[str, str], tmp_path: Path) -> None:
    """The owner makes the tables; the nodes' role runs a job, and can neither change tables nor make some."""
    owner, node = urls
    await asyncio.to_thread(schema.migrate, owner)
    service = Service(tmp_path / "node", STORE__URL=node, WORKER__NAME="build-1")
    try:
        await service.start()
        assert (await service.run("echo fine"))["stdout"] == "fine\n"
        assert (await service.get("/readyz"))[0] == 200
        await service.kill()  # the next one compares ids with its journal
        await service.restart()
        assert (await service.run("echo again"))["stdout"] == "again\n"
    finally:
        await service.clear_away()
    with psycopg.connect(node, autocommit=True) as connection:
        reconciler.skip_ids(PostgresDb(connection))  # as a node does that meets another server
        for refused in ("DROP TABLE jobs", "ALTER TABLE jobs ADD COLUMN x int", "CREATE TABLE other (x int)"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(refused)
