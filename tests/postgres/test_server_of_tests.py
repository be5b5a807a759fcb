"""The PostgreSQL servers of the tests themselves: they start, break and end as the other tests need it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psycopg
import pytest

from tests.faults.filesystems import filled, mounted
from tests.support import postgres
from tests.support.directories import open_directory
from tests.support.processes import children, lives
from tests.support.users import as_root
from tests.support.waiting import until

_ROOT = Path(__file__).parents[2]

_TABLE = "CREATE TABLE written (number int)"
_COUNT = "SELECT count(*) FROM written"
_WRITE = "INSERT INTO written VALUES (1)"


def make_table(url: str) -> None:
    """Stand for the product's migration."""
    with psycopg.connect(url) as db:
        db.execute(_TABLE)


def test_each_database_is_a_copy_of_one_that_was_migrated_once() -> None:
    """A copy has the tables, and what is written to it is in no other copy."""
    server = postgres.shared()
    assert postgres.shared() is server
    assert postgres.template(make_table) == postgres.template(make_table)
    first, second = (server.create_database(postgres.template(make_table)) for _ in range(2))
    server.execute(_WRITE, database=first)
    assert [server.execute(_COUNT, database=name) for name in (first, second)] == [[(1,)], [(0,)]]
    for name in (first, second):
        server.drop_database(name)
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        server.execute(_COUNT, database=first)


@pytest.mark.heavy
def test_what_was_committed_is_there_after_each_kind_of_end() -> None:
    """Fast, immediate, and kill -9 of every process; the address stays the same."""
    with postgres.server(listen="127.0.0.1") as server:
        server.execute(_TABLE)
        ends: list[Callable[[], None]] = [server.stop, partial(server.stop, "immediate"), server.kill]
        for end in ends:
            server.execute(_WRITE)
            end()
            assert not server.is_running
            with pytest.raises(psycopg.OperationalError):
                server.execute(_COUNT)
            server.start()
        assert server.execute(_COUNT) == [(3,)]
        with psycopg.connect(server.url(tcp=True)) as db:
            assert db.execute(_COUNT).fetchall() == [(3,)]
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(server.url(tcp=True).replace(server.password, "another"))


@pytest.mark.heavy
async def test_a_frozen_server_keeps_its_connections() -> None:
    """A query waits while the server is frozen, and gets its answer afterwards."""
    with postgres.server() as server, psycopg.connect(server.url()) as db:
        server.freeze()
        stopped = [server.pid, *children(server.pid)]

        def states() -> set[str]:
            return {Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in stopped}

        # A process on another processor stops a moment later.
        await until(lambda: states() == {"T"})
        assert len(stopped) > 2
        server.thaw()
        assert db.execute("SELECT 1").fetchall() == [(1,)]


@pytest.mark.heavy
def test_a_promoted_replica_has_what_it_had_received() -> None:
    """A standby follows; one that receives nothing more lags, and can be promoted without the rest."""
    with postgres.server() as primary:
        replica = primary.replica()
        primary.execute(_TABLE)
        primary.execute(_WRITE)
        replica.wait_for_replay(primary)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            replica.execute(_WRITE)
        replica.stop_receiving()
        primary.execute(_WRITE)
        primary.kill()
        replica.promote()
        assert replica.execute(_COUNT) == [(1,)]
        replica.execute(_WRITE)
        replica.end()


@pytest.mark.heavy
@as_root
def test_a_full_disk_is_an_error_of_the_statement(tmp_path: Path) -> None:
    """Without space a write fails; with space again it succeeds."""

    def need(condition: bool, what: str) -> None:
        if not condition:
            postgres.skip_or_fail(what)

    # Small segments, so that the log needs a new file soon.
    settings = {"shared_buffers": "16MB", "max_wal_size": "2MB", "min_wal_size": "2MB"}
    with (
        open_directory() as parent,
        mounted("tmpfs", parent, need, size=96) as disk,
        postgres.server(settings, directory=disk, wal_segment=1) as server,
    ):
        server.execute(_TABLE)
        with filled(disk), pytest.raises(psycopg.Error):
            server.execute("INSERT INTO written SELECT generate_series(1, 1000000)")
        if not server.is_running:  # no space for its log is a reason for it to end
            server.start()
        server.execute(_WRITE)
        assert server.execute(_COUNT) == [(1,)]


_USES_A_SERVER = """
import sys
from tests.support import postgres
from tests.support.directories import open_directory
server = postgres.shared()
print(server.pid, server.directory, flush=True)
sys.stdin.read()
"""


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("signum", "is_left"), [(signal.SIGINT, False), (signal.SIGKILL, True)], ids=["Ctrl-C", "kill -9"]
)
async def test_no_server_outlives_its_tests(signum: signal.Signals, is_left: bool) -> None:
    """However a test process ends, its server ends; a killed one leaves the files, any other nothing."""
    environment = {name: value for name, value in os.environ.items() if name != "XDG_RUNTIME_DIR"}
    mode = os.stat("/tmp").st_mode
    with subprocess.Popen(
        [sys.executable, "-c", _USES_A_SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT,
        env=environment,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        pid, directory = process.stdout.readline().split()
        members = [int(pid), *children(int(pid))]
        assert all(map(lives, members))
        process.send_signal(signum)
        process.communicate()
    await until(lambda: not any(map(lives, members)), what="no process of PostgreSQL is left")
    assert Path(directory).exists() == is_left
    assert os.stat("/tmp").st_mode == mode
    if is_left:
        postgres.remove(Path(directory))
