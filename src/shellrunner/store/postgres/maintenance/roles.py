"""Database roles of nodes: what each may do, granted by `shellrunner migrate --role`.

A role is of one kind, and exists already: its password is the affair of an admin. Table privileges say which rows a
kind writes at all, and a trigger on `jobs` which changes of a job: privileges on columns cannot tell the end of a job
that runs from that of one that is cancelled before its start. Must not know nodes.

    api      accepts, edits, cancels before the start, deletes; cannot claim, or end what runs (only as lost)
    worker   claims and ends; cannot accept, edit or revive a job, nor change sessions, queues or pauses
    node     both, for `serve` that runs jobs, too
    none of them can change tables, functions, or which role is of which kind
"""

from collections.abc import Mapping
from typing import Final

import psycopg
from psycopg import sql

from shellrunner.errors import ShellrunnerError, StoreUnavailable
from shellrunner.store.postgres import schema
from shellrunner.store.postgres.engine import failures
from shellrunner.store.postgres.engine.connection_thread import connect
from shellrunner.store.postgres.engine.postgres_db import Connection

_ALL: Final = "SELECT, INSERT, UPDATE, DELETE"
# What a kind may do; all may SELECT from every table.
_NODE: Final = dict.fromkeys(
    (
        "jobs", "outputs", "attempts", "labels", "dependencies", "paused", "keys", "callbacks", "sessions", "queues",
        "search", "job_keys", "counts", "sizes", "hosts", "chunks", "discarded_outputs", "discarded_files",
        "unsettled", "orders", "writers", "commands",
        "pgqueuer", "pgqueuer_log",
    ),
    _ALL,
) | {"meta": "SELECT, INSERT, UPDATE"}  # fmt: skip
_API: Final = _NODE | {
    "outputs": "SELECT, DELETE",
    "attempts": "SELECT, INSERT, DELETE",
    "chunks": "SELECT, DELETE",
    "commands": "SELECT, DELETE",
}
_WORKER_COLUMNS: Final = (
    "state, attempt, due, awaits, has_dependents, started, completed, claimed, keeper, token, host, cancelling, "
    "kill_only, ending, exit_code, signal, detail, duration, stdout_bytes, stderr_bytes, stdout_dropped, "
    "stderr_dropped, cpu_user, cpu_system, max_rss_bytes, leftovers, leftovers_count, secrets, found"
)
_WORKER: Final = _NODE | {
    "jobs": f"SELECT, DELETE, UPDATE ({_WORKER_COLUMNS})",
    "labels": "SELECT, DELETE",
    "dependencies": "SELECT, DELETE",
    "callbacks": "SELECT, UPDATE, DELETE",
    "keys": "SELECT, DELETE",
    "sessions": "SELECT, DELETE",
    "paused": "SELECT",
    "queues": "SELECT",
    "search": "SELECT, UPDATE, DELETE",
}
KINDS: Final = {"api": _API, "worker": _WORKER, "node": _NODE}

# Names are qualified: a temporary table of the role would come first.
_MAKE: Final = """CREATE TABLE IF NOT EXISTS node_roles (name text COLLATE "C" PRIMARY KEY, kind text NOT NULL);
CREATE OR REPLACE FUNCTION guard_job() RETURNS trigger LANGUAGE plpgsql AS $guard$
DECLARE
    role_kind text := (SELECT kind FROM public.node_roles WHERE name = session_user);
BEGIN
    IF role_kind = 'api' THEN
        IF TG_OP = 'INSERT' THEN
            RAISE insufficient_privilege USING MESSAGE = 'the role of an API node may not add a claimed or ended job';
        ELSIF NEW.state = 'running' AND OLD.state != 'running' OR NEW.token IS NOT NULL AND
            NEW.token IS DISTINCT FROM OLD.token OR NEW.host IS DISTINCT FROM OLD.host THEN
            RAISE insufficient_privilege USING MESSAGE = 'the role of an API node may not claim jobs';
        ELSIF OLD.state = 'running' AND NEW.state != 'running'
            AND NOT (NEW.state = 'done' AND NEW.ending IS NOT DISTINCT FROM 'lost')
            AND NOT (NEW.state IN ('waiting', 'queued') AND NEW.attempt = OLD.attempt + 1) THEN
            RAISE insufficient_privilege USING MESSAGE = 'the role of an API node may not end jobs that run';
        END IF;
    END IF;
    IF role_kind IS NOT NULL AND TG_OP = 'UPDATE' AND OLD.state = 'done' AND NEW.state != 'done' THEN
        RAISE insufficient_privilege USING MESSAGE = 'the role of a node may not start a job again that is done';
    END IF;
    RETURN NEW;
END $guard$;
CREATE OR REPLACE FUNCTION guard_attempt() RETURNS trigger LANGUAGE plpgsql AS $guard$
BEGIN
    IF (SELECT kind FROM public.node_roles WHERE name = session_user) = 'api' THEN
        RAISE insufficient_privilege USING MESSAGE = 'the role of an API node may not end jobs that run';
    END IF;
    RETURN NEW;
END $guard$;
CREATE OR REPLACE TRIGGER guard_attempt BEFORE INSERT ON attempts FOR EACH ROW
    WHEN (NEW.ending != 'lost') EXECUTE FUNCTION guard_attempt();
CREATE OR REPLACE TRIGGER guard_new_job BEFORE INSERT ON jobs FOR EACH ROW
    WHEN (NEW.token IS NOT NULL OR NEW.host IS NOT NULL OR NEW.state IN ('running', 'done'))
    EXECUTE FUNCTION guard_job();
CREATE OR REPLACE TRIGGER guard_job BEFORE UPDATE ON jobs FOR EACH ROW
    WHEN (OLD.state != NEW.state OR OLD.token IS DISTINCT FROM NEW.token OR OLD.host IS DISTINCT FROM NEW.host)
    EXECUTE FUNCTION guard_job();
REVOKE CREATE ON SCHEMA public FROM PUBLIC"""
_FIND: Final = """SELECT rolsuper OR pg_has_role(rolname, relowner, 'MEMBER') FROM pg_roles, pg_class
    WHERE rolname = %s AND pg_class.oid = 'jobs'::regclass"""
_STORED: Final = "SELECT name, kind FROM node_roles ORDER BY name"
_SET: Final = """INSERT INTO node_roles (name, kind) VALUES (%s, %s)
    ON CONFLICT (name) DO UPDATE SET kind = excluded.kind"""
_REVOKE: Final = (
    "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {role}",
    "REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM {role}",
    "REVOKE ALL ON SCHEMA public FROM {role}",
)
_GRANT: Final = (
    "GRANT CONNECT ON DATABASE {database} TO {role}",
    "GRANT USAGE ON SCHEMA public TO {role}",
    "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}",
    "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}",
    # A node that returns, or that follows a failover, has ids continue above those that were given (`reconciler`).
    "GRANT SELECT, UPDATE ON SEQUENCE jobs_id_seq TO {role}",
)


def grant(url: str, roles: Mapping[str, str]) -> dict[str, str]:
    """Grant each of these roles, by name, and each of an earlier call, what its kind may do; return all of them.

    Raises:
        ShellrunnerError: there is no such role, or nothing can be refused to it; nothing was granted.
    """
    try:
        with connect(url) as connection, connection.transaction():
            if not roles and connection.execute("SELECT to_regclass('node_roles')").fetchone() == (None,):
                return {}
            schema.check(connection)
            connection.execute(_MAKE)
            for name, kind in roles.items():
                _check(connection, name)
                connection.execute(_SET, [name, kind])
            granted = {str(name): str(kind) for name, kind in connection.execute(_STORED).fetchall()}
            for name, kind in granted.items():
                _grant(connection, name, kind)
    except psycopg.Error as error:
        raise StoreUnavailable(f"the roles were not granted anything: {failures.describe(error)}") from None
    return granted


def _check(connection: Connection, name: str) -> None:
    found = connection.execute(_FIND, [name]).fetchone()
    if found is None:
        raise ShellrunnerError(f"there is no role {name!r}: create it first (CREATE ROLE ... LOGIN PASSWORD ...)")
    if found[0]:
        raise ShellrunnerError(f"the role {name!r} is a superuser or owns the tables, so nothing is refused to it")


def _grant(connection: Connection, name: str, kind: str) -> None:
    names = {"role": sql.Identifier(name), "database": sql.Identifier(connection.info.dbname)}
    for statement in (*_REVOKE, *_GRANT):
        connection.execute(sql.SQL(statement).format(**names))
    for table, privileges in KINDS[kind].items():
        statement = f"GRANT {privileges} ON {table} TO {{role}}"
        connection.execute(sql.SQL(statement).format(**names))
