"""The authenticator: who is admitted by a token, a session or a uid; over a real store."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shellrunner.access import ALL_SCOPES, session_registry
from shellrunner.access.authenticator import Authenticator, open_authenticator
from shellrunner.access.session_registry import SESSION_LIFETIME, SessionRegistry
from shellrunner.access.throttle import BURST
from shellrunner.access.token_lookup import Tokens
from shellrunner.config import AuthSettings, Rule, Token
from shellrunner.config.token_hash import PREFIX, hash_secret
from shellrunner.errors import NotThisUser, SessionsOff, StoreUnavailable, TokenNeeded, TooManyWrongTokens
from shellrunner.service.session_reader import follow_sessions
from shellrunner.store import Retention
from shellrunner.store.notifications import Topic
from shellrunner.store.sqlite.composition import open_store
from shellrunner.store.sqlite.store import SqliteStore
from tests.support.tokens import secret_of
from tests.support.waiting import until

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
SECRET, OTHER = secret_of("ci"), secret_of("other")


def token(secret: Any = SECRET, name: str = "ci", **more: Any) -> Any:
    return Token(**{"name": name, "hash": hash_secret(secret), "scopes": ["read", "run"], **more})


def auth(*tokens: Any, session_cookie: bool = True) -> Any:
    return AuthSettings(tokens=list(tokens or [token()]), tokens_file=None, session_cookie=session_cookie)


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> Any:
        return self.now

    def millis(self) -> int:
        return int(self.now.timestamp() * 1000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@asynccontextmanager
async def history(path: Path) -> AsyncIterator[SqliteStore]:
    for directory in ("slots", "runs"):
        (path / directory).mkdir(exist_ok=True)
    async with open_store(path, Retention()) as store:
        yield store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with history(tmp_path) as opened:
        yield opened


@pytest.fixture
async def authenticator(store: SqliteStore, clock: Clock) -> Authenticator:
    return await opened_with(store, clock)


async def opened_with(store: SqliteStore, clock: Clock, config: Any = None) -> Authenticator:
    """Return an authenticator as the composition root opens it, but with the test's clock."""
    kept = SessionRegistry(store, clock.millis)
    await kept.load()
    opened = Authenticator(config or auth(), kept, clock=clock)
    await opened.flush_sessions()
    return opened


# Tokens


async def test_a_token_authenticates(authenticator: Authenticator) -> None:
    """A token authenticates under its name, with exactly its scopes and its settings."""
    identity = authenticator.authenticate_token(SECRET, "192.0.2.1")
    assert (identity.name, identity.scopes, identity.session) == ("token:ci", frozenset({"read", "run"}), None)
    assert identity.token == token()
    assert authenticator.needs_token


@pytest.mark.parametrize(
    "presented",
    [
        "", " ", f" {SECRET}", f"{SECRET} ", SECRET.upper(), f"{SECRET}\0", "жетон", "\udcff",
        hash_secret(SECRET), hash_secret(SECRET).removeprefix(PREFIX), pytest.param("x" * 10_000_000, id="huge"),
    ],
)  # fmt: skip
async def test_what_is_not_the_token_is_wrong(authenticator: Authenticator, presented: Any) -> None:
    """Empty, huge, in another case, with more around it, not ASCII, its hash: all are wrong, and none is an error."""
    with pytest.raises(TokenNeeded) as refused:
        authenticator.authenticate_token(presented, "192.0.2.1")
    assert refused.value.wrong


@pytest.mark.heavy
@settings(deadline=None)
@given(st.text(max_size=60))
def test_only_the_token_itself_is_found(presented: Any) -> None:
    """No text but the token itself is found, even where hashes of what is no token are configured."""
    odd = [
        "",
        "test",
        "жетон",
        "x" * 2000,
        "srt_short",
        "srt_" + "a" * 43,
        "srt_" + ("test" * 11)[:43],
        SECRET + "x",
        f"{SECRET}\n",
        " " + SECRET,
    ]
    tokens = Tokens([token(), *(token().model_copy(update={"hash": hash_secret(secret)}) for secret in odd)])
    found = tokens.find(SECRET)
    assert found is not None
    assert found.name == "token:ci"
    for text in (presented, *odd):
        assert (tokens.find(text) is not None) == (text == SECRET)


async def test_each_of_many_tokens_is_itself(store: SqliteStore, clock: Clock) -> None:
    """The first of many tokens, the last and all between authenticate under their own names."""
    many = [token(secret_of(f"t{number}"), f"t{number}") for number in range(50)]
    authenticator = await opened_with(store, clock, auth(*many))
    assert [authenticator.authenticate_token(secret_of(f"t{number}"), "x").name for number in range(50)] == [
        f"token:t{n}" for n in range(50)
    ]


async def test_every_hash_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """All hashes are compared, wherever the right one stands, and if none is right."""
    compared: list[Any] = []

    def compare(known: Any, digest: Any) -> bool:
        compared.append(digest)
        return bool(known == digest)

    tokens = Tokens([token(secret_of(f"t{number}"), f"t{number}") for number in range(10)])
    monkeypatch.setattr(
        "shellrunner.access.token_lookup.hmac.compare_digest",
        compare,
    )
    for presented in (secret_of("t0"), secret_of("t9"), secret_of("wrong")):
        compared.clear()
        tokens.find(presented)
        assert compared == [hash_secret(presented)] * 10


async def test_a_token_is_invalid_when_it_expires(store: SqliteStore, clock: Clock) -> None:
    """A token is invalid from the moment of its expiry, for open streams too."""
    authenticator = await opened_with(store, clock, auth(token(expires=NOON + timedelta(seconds=1))))
    identity = authenticator.authenticate_token(SECRET, "x")
    assert authenticator.is_still_valid(identity)
    clock.now += timedelta(seconds=1)
    assert not authenticator.is_still_valid(identity)
    with pytest.raises(TokenNeeded):
        authenticator.authenticate_token(SECRET, "x")


async def test_wrong_tokens_are_rate_limited_and_valid_ones_are_not(authenticator: Authenticator) -> None:
    """After a burst of wrong tokens from one source it must wait; a valid one from there is still accepted."""
    for _ in range(BURST):
        with pytest.raises(TokenNeeded):
            authenticator.authenticate_token("wrong", "192.0.2.1")
        assert authenticator.authenticate_token(SECRET, "192.0.2.1")
    with pytest.raises(TooManyWrongTokens) as refused:
        authenticator.authenticate_token("wrong", "192.0.2.1")
    assert 0 < refused.value.retry_after <= 6
    for _ in range(100):
        assert authenticator.authenticate_token(SECRET, "192.0.2.1").name == "token:ci"
    with pytest.raises(TokenNeeded):
        authenticator.authenticate_token("wrong", "192.0.2.2")


# Reloading


async def test_a_revoked_token_is_invalid_at_once(authenticator: Authenticator) -> None:
    """A revoked token is invalid at once, for open streams too; another token under its name is another."""
    identity = authenticator.authenticate_token(SECRET, "x")
    authenticator.reload(auth(token(OTHER)))
    assert not authenticator.is_still_valid(identity)
    with pytest.raises(TokenNeeded):
        authenticator.authenticate_token(SECRET, "x")
    assert authenticator.authenticate_token(OTHER, "x").name == "token:ci"


@pytest.mark.parametrize(
    ("changed", "goes_on"),
    [
        ({}, True), ({"scopes": ["admin", "run", "read"]}, True), ({"expires": NOON + timedelta(days=1)}, True),
        ({"scopes": ["read"]}, False), ({"name": "renamed"}, False), ({"run_as": "root"}, False),
        ({"commands": [Rule(command="ls")]}, False), ({"expires": NOON}, False),
    ],
)  # fmt: skip
async def test_a_stream_goes_on_while_its_token_allows_as_much(
    authenticator: Authenticator, changed: dict[str, Any], goes_on: bool
) -> None:
    """It goes on if its token got a scope or a later expiry, and ends if anything else of it changed."""
    identity = authenticator.authenticate_token(SECRET, "x")
    authenticator.reload(auth(token(**changed)))
    assert authenticator.is_still_valid(identity) == goes_on
    authenticator.reload(auth())
    assert authenticator.is_still_valid(identity)


async def test_changes_are_reported(authenticator: Authenticator) -> None:
    """A reload, the end of a session and one session too many each report that an identity may be invalid by now."""
    reported: list[int] = []
    authenticator.on_change = lambda: reported.append(1)
    authenticator.reload(auth())
    assert len(reported) == 1
    identity = authenticator.authenticate_token(SECRET, "x")
    await authenticator.create_session(identity)
    assert len(reported) == 2
    await authenticator.end_sessions(identity)
    assert len(reported) == 3


async def test_the_first_expiry_is_the_next(store: SqliteStore, clock: Clock) -> None:
    """What is left is the shorter of the token's and the session's time; None where neither expires."""
    authenticator = await opened_with(store, clock)
    identity = authenticator.authenticate_token(SECRET, "x")
    assert authenticator.seconds_left(identity) is None
    watcher = await authenticator.authenticate_session(await authenticator.create_session(identity))
    assert watcher is not None
    assert authenticator.seconds_left(watcher) == SESSION_LIFETIME
    authenticator.reload(auth(token(expires=NOON + timedelta(seconds=9))))
    assert authenticator.seconds_left(authenticator.authenticate_token(SECRET, "x")) == 9
    await authenticator.end_sessions(identity)
    assert authenticator.seconds_left(watcher) == 0


async def test_removing_the_last_token_admits_nobody(authenticator: Authenticator) -> None:
    """An authenticator that had tokens since the start still requires one when the last was removed."""
    identity = authenticator.authenticate_token(SECRET, "x")
    authenticator.reload(AuthSettings(tokens=[], tokens_file=None))
    assert authenticator.needs_token
    assert not authenticator.is_still_valid(identity)
    assert authenticator.is_still_valid(authenticator.authenticate_uid(os.geteuid(), on_unix_socket=True))
    with pytest.raises(TokenNeeded):
        authenticator.authenticate_token(SECRET, "x")


# Users


async def test_the_services_own_user_may_do_everything(authenticator: Authenticator) -> None:
    """The service's own user has all scopes, and is named by its uid; with tokens, on the Unix socket only."""
    for on_unix_socket in (True, False):
        identity = authenticator.authenticate_uid(os.geteuid(), on_unix_socket=on_unix_socket)
        assert (identity.name, identity.scopes, identity.token) == (f"uid:{os.geteuid()}", ALL_SCOPES, None)
        assert authenticator.is_still_valid(identity) == on_unix_socket


@pytest.mark.parametrize("uid", [None, os.geteuid() + 1, 65_534, -1])
async def test_another_user_is_rejected_with_help(authenticator: Authenticator, uid: Any) -> None:
    """Another uid, or an unknown one, is rejected with a message that names the setting that would help."""
    with pytest.raises(NotThisUser, match=r"auth\.tokens") as refused:
        authenticator.authenticate_uid(uid)
    for reason in ("could not be determined", "a proxy forwarded it") if uid is None else (f"uid {uid}",):
        assert reason in refused.value.detail


# Sessions


async def test_a_session_may_read_only(authenticator: Authenticator) -> None:
    """A session has its token's name and only `read`; its cookie is long, new each time, and not a token."""
    identity = authenticator.authenticate_token(SECRET, "x")
    cookies = {await authenticator.create_session(identity) for _ in range(3)}
    assert len(cookies) == 3
    for cookie in cookies:
        assert len(cookie) >= 43
        watcher = await authenticator.authenticate_session(cookie)
        assert watcher is not None
        assert (watcher.name, watcher.scopes, watcher.session is not None) == ("token:ci", frozenset({"read"}), True)
        assert authenticator.is_still_valid(watcher)
        with pytest.raises(TokenNeeded):
            authenticator.authenticate_token(cookie, "x")


@pytest.mark.parametrize("cookie", ["", "x", "жетон", "\udcff", SECRET, pytest.param("x" * 1_000_000, id="huge")])
async def test_a_wrong_cookie_authenticates_nobody(authenticator: Authenticator, cookie: Any) -> None:
    """A wrong cookie, and the token as a cookie, authenticate nobody, and are no error."""
    await authenticator.create_session(authenticator.authenticate_token(SECRET, "x"))
    assert await authenticator.authenticate_session(cookie) is None


async def test_the_cookie_is_stored_as_a_hash(
    authenticator: Authenticator, store: SqliteStore, tmp_path: Path
) -> None:
    """The store has the cookie's SHA-256 only: neither the cookie nor the token is in any file."""
    cookie = await authenticator.create_session(authenticator.authenticate_token(SECRET, "x"))
    (session,) = await store.sessions()
    assert session.digest == hashlib.sha256(cookie.encode()).digest()
    assert session.token == token().hash
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert session.digest in everything
    assert cookie.encode() not in everything
    assert SECRET.encode() not in everything


async def test_a_session_expires_after_twelve_hours(
    authenticator: Authenticator, clock: Clock, store: SqliteStore
) -> None:
    """A session expires after exactly twelve hours, and the next one that is created deletes it from the store."""
    identity = authenticator.authenticate_token(SECRET, "x")
    cookie = await authenticator.create_session(identity)
    watcher = await authenticator.authenticate_session(cookie)
    assert watcher is not None
    clock.now += timedelta(seconds=SESSION_LIFETIME, milliseconds=-1)
    assert authenticator.is_still_valid(watcher)
    clock.now += timedelta(milliseconds=1)
    assert await authenticator.authenticate_session(cookie) is None
    assert not authenticator.is_still_valid(watcher)
    assert len(await store.sessions()) == 1
    await authenticator.create_session(identity)
    assert len(await store.sessions()) == 1
    assert SESSION_LIFETIME == 43_200


async def test_a_session_is_not_prolonged_by_a_clock_that_is_set_back(
    authenticator: Authenticator, clock: Clock
) -> None:
    """With six weeks more left than its lifetime a session is not valid; a correction by seconds does not matter."""
    cookie = await authenticator.create_session(authenticator.authenticate_token(SECRET, "x"))
    clock.now -= timedelta(seconds=30)
    assert await authenticator.authenticate_session(cookie) is not None
    clock.now -= timedelta(days=42)
    assert await authenticator.authenticate_session(cookie) is None


async def test_the_number_of_sessions_per_token_is_limited(
    authenticator: Authenticator, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one session more than a token may have, its oldest ends; those of other tokens do not."""
    monkeypatch.setattr(session_registry, "MAX_SESSIONS_PER_TOKEN", 5)
    authenticator.reload(auth(token(), token(OTHER, "other")))
    others = await authenticator.create_session(authenticator.authenticate_token(OTHER, "x"))
    cookies = [await authenticator.create_session(authenticator.authenticate_token(SECRET, "x")) for _ in range(8)]
    assert [await authenticator.authenticate_session(cookie) is not None for cookie in cookies] == [False] * 3 + [
        True
    ] * 5
    assert await authenticator.authenticate_session(others)
    assert len(await store.sessions()) == 6


async def test_sessions_survive_a_restart(tmp_path: Path, clock: Clock) -> None:
    """A session is valid after a restart, and expires when it would have without."""
    async with history(tmp_path) as store:
        authenticator = await opened_with(store, clock)
        cookie = await authenticator.create_session(authenticator.authenticate_token(SECRET, "x"))
    async with history(tmp_path) as store:
        watcher = await (await opened_with(store, clock)).authenticate_session(cookie)
        assert watcher is not None
        assert watcher.name == "token:ci"
        clock.now += timedelta(hours=13)
        assert await (await opened_with(store, clock)).authenticate_session(cookie) is None
        assert await store.sessions() == []


async def test_ending_sessions_ends_all_of_the_token_for_good(store: SqliteStore, clock: Clock) -> None:
    """Ending a token's sessions ends none of another token, also in the next process."""
    both = auth(token(), token(OTHER, "other"))
    authenticator = await opened_with(store, clock, both)
    mine = [await authenticator.create_session(authenticator.authenticate_token(SECRET, "x")) for _ in range(2)]
    others = await authenticator.create_session(authenticator.authenticate_token(OTHER, "x"))
    watcher = await authenticator.authenticate_session(mine[0])
    assert watcher is not None
    await authenticator.end_sessions(authenticator.authenticate_token(SECRET, "x"))
    assert not authenticator.is_still_valid(watcher)
    for each in (authenticator, await opened_with(store, clock, both)):
        assert [await each.authenticate_session(cookie) for cookie in mine] == [None, None]
        assert await each.authenticate_session(others)


@pytest.mark.parametrize(
    "changed",
    [
        auth(token(OTHER, "other")),
        auth(session_cookie=False),
        AuthSettings(tokens=[], tokens_file=None, session_cookie=True),
    ],
    ids=["revoked", "off", "no tokens"],
)
@pytest.mark.parametrize("restarts", [False, True])
async def test_sessions_end_for_good_with_their_token(
    store: SqliteStore, clock: Clock, changed: Any, restarts: bool
) -> None:
    """When a token is revoked or sessions are turned off, its sessions end, and do not come back with the token."""
    authenticator = await opened_with(store, clock)
    cookie = await authenticator.create_session(authenticator.authenticate_token(SECRET, "x"))
    watcher = await authenticator.authenticate_session(cookie)
    assert watcher is not None
    if restarts:
        authenticator = await opened_with(store, clock, changed)
    else:
        authenticator.reload(changed)
        await authenticator.flush_sessions()
    assert await authenticator.authenticate_session(cookie) is None
    assert not authenticator.is_still_valid(watcher)
    authenticator.reload(auth())
    assert await authenticator.authenticate_session(cookie) is None
    assert await (await opened_with(store, clock)).authenticate_session(cookie) is None


async def test_a_session_reads_only_while_its_token_may(authenticator: Authenticator) -> None:
    """Sessions of a token that lost `read`, or has expired, authenticate nobody."""
    cookie = await authenticator.create_session(authenticator.authenticate_token(SECRET, "x"))
    watcher = await authenticator.authenticate_session(cookie)
    assert watcher is not None
    authenticator.reload(auth(token(scopes=["run"])))
    assert await authenticator.authenticate_session(cookie) is None
    assert not authenticator.is_still_valid(watcher)
    authenticator.reload(auth(token(expires=NOON)))
    assert await authenticator.authenticate_session(cookie) is None
    authenticator.reload(auth())
    assert await authenticator.authenticate_session(cookie)


async def test_sessions_must_be_allowed_by_the_configuration(authenticator: Authenticator) -> None:
    """No session is created where the configuration allows none, or for an identity without a token."""
    identity = authenticator.authenticate_token(SECRET, "x")
    with pytest.raises(SessionsOff):
        await authenticator.create_session(authenticator.authenticate_uid(os.geteuid()))
    await authenticator.end_sessions(authenticator.authenticate_uid(os.geteuid()))
    authenticator.reload(auth(session_cookie=False))
    with pytest.raises(SessionsOff):
        await authenticator.create_session(identity)
    await authenticator.end_sessions(identity)


async def test_a_session_that_cannot_be_stored_is_not_created(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that cannot be stored is not created; one that cannot be deleted ends, and is deleted later."""
    async with history(tmp_path) as store:
        authenticator = await opened_with(store, clock)
        identity = authenticator.authenticate_token(SECRET, "x")
        cookie = await authenticator.create_session(identity)
        await failing(store)
        with pytest.raises(StoreUnavailable):
            await authenticator.create_session(identity)
        with pytest.raises(StoreUnavailable):
            await authenticator.end_sessions(identity)
        assert await authenticator.authenticate_session(cookie) is None
        await failing(store, again=True)
        assert len(await store.sessions()) == 1
        await authenticator.end_sessions(identity)
        assert await store.sessions() == []


async def test_a_session_that_was_not_stored_ends_no_other(
    store: SqliteStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that could not be stored does not count towards the maximum of its token."""
    monkeypatch.setattr(session_registry, "MAX_SESSIONS_PER_TOKEN", 2)
    authenticator = await opened_with(store, clock)
    identity = authenticator.authenticate_token(SECRET, "x")
    first = await authenticator.create_session(identity)
    await failing(store)
    with pytest.raises(StoreUnavailable):
        await authenticator.create_session(identity)
    await failing(store, again=True)
    assert await authenticator.authenticate_session(await authenticator.create_session(identity))
    assert await authenticator.authenticate_session(first)


async def test_what_has_ended_is_forgotten(authenticator: Authenticator) -> None:
    """Nothing of an ended session remains in memory once its deletion is stored."""
    identity = authenticator.authenticate_token(SECRET, "x")
    for _ in range(3):
        await authenticator.create_session(identity)
        await authenticator.end_sessions(identity)
    assert not authenticator._sessions._open
    assert not authenticator._sessions._ended


def _execute(db: Any, *, sql: str) -> None:
    db.execute(sql).close()


async def failing(store: SqliteStore, *, again: bool = False) -> None:
    """Let every change of the sessions fail in SQLite, or no longer."""
    for verb in ("INSERT", "DELETE"):
        name = f"refuse_{verb}"
        step = f"CREATE TRIGGER {name} BEFORE {verb} ON sessions BEGIN SELECT RAISE(FAIL, 'disk I/O error'); END"
        sql = f"DROP TRIGGER {name}" if again else step
        await store._engine.write(partial(_execute, sql=sql))


async def test_it_opens_with_the_sessions_of_earlier_processes(store: SqliteStore, clock: Clock) -> None:
    """An authenticator that the composition root opens knows the sessions of earlier processes."""
    first = await open_authenticator(auth(), store)
    cookie = await first.create_session(first.authenticate_token(SECRET, "x"))
    assert await (await open_authenticator(auth(), store)).authenticate_session(cookie)


async def test_a_session_of_another_process_is_found_in_the_store(store: SqliteStore, clock: Clock) -> None:
    """A session that was created after an authenticator was opened is admitted by it, until it was ended."""
    late = await opened_with(store, clock)
    authenticator = await opened_with(store, clock)
    cookie = await authenticator.create_session(authenticator.authenticate_token(SECRET, "x"))
    watcher = await late.authenticate_session(cookie)
    assert watcher is not None
    assert watcher.name == "token:ci"
    assert late.is_still_valid(watcher)
    await late.end_sessions(watcher)
    assert await late.authenticate_session(cookie) is None
    assert await (await opened_with(store, clock)).authenticate_session(cookie) is None


async def test_a_session_that_ends_while_it_is_read_stays_ended(
    store: SqliteStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An end that is stored between the read of a session and its use is not undone by what was read."""
    authenticator = await opened_with(store, clock)
    cookie = await authenticator.create_session(authenticator.authenticate_token(SECRET, "x"))
    late = await opened_with(store, clock)
    other = await late.create_session(late.authenticate_token(SECRET, "x"))
    read = store.session

    async def slow(digest: Any) -> Any:
        found = await read(digest)
        monkeypatch.setattr(store, "session", read)
        await authenticator.end_sessions(authenticator.authenticate_token(SECRET, "x"))
        await store.change_sessions([], [digest])
        return found

    monkeypatch.setattr(store, "session", slow)
    assert await authenticator.authenticate_session(other) is None
    assert await authenticator.authenticate_session(cookie) is None


# Sessions that another process changes


async def test_a_session_that_another_process_ends_is_invalid_as_soon_as_that_is_known(
    store: SqliteStore, clock: Clock
) -> None:
    """A refresh ends what is no longer stored, and keeps what is; who is connected with it is asked about."""
    here, there = await opened_with(store, clock), await opened_with(store, clock)
    cookie = await here.create_session(here.authenticate_token(SECRET, "x"))
    watcher = await there.authenticate_session(cookie)
    assert watcher is not None
    reports: list[bool] = []
    there.on_change = lambda: reports.append(there.is_still_valid(watcher))
    following = asyncio.create_task(follow_sessions(store, there))
    await asyncio.sleep(0)
    store._effects.notifications.notify(Topic.SESSIONS)
    await until(lambda: reports, what="it has looked")
    await here.end_sessions(here.authenticate_token(SECRET, "x"))
    store._effects.notifications.notify(Topic.SESSIONS)
    await until(lambda: len(reports) == 2, what="it has looked again")
    following.cancel()
    assert reports == [True, False]
    assert await there.authenticate_session(cookie) is None


async def test_a_logout_ends_sessions_of_the_token_that_another_process_has_created(
    store: SqliteStore, clock: Clock
) -> None:
    """Also one that was never used here."""
    here, there = await opened_with(store, clock), await opened_with(store, clock)
    await here.create_session(here.authenticate_token(SECRET, "x"))
    await there.end_sessions(there.authenticate_token(SECRET, "x"))
    assert await store.sessions() == []


async def test_a_logout_during_a_refresh_ends_what_that_reads(
    store: SqliteStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions of another process that are being read just now are ended by the token, in the store too."""
    here, there = SessionRegistry(store, clock.millis), SessionRegistry(store, clock.millis)
    cookie = await there.create(token().hash)
    read = store.sessions

    async def slow() -> Any:
        found = await read()
        here.end_all(token().hash)
        await here.flush()
        return found

    monkeypatch.setattr(store, "sessions", slow)
    await here.refresh()
    assert await here.find(cookie) is None
    assert await read() == []


async def test_a_session_that_is_created_after_a_logout_stays(
    store: SqliteStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if that could be stored only now: what ends all sessions of the token is written before it."""
    registry = SessionRegistry(store, clock.millis)
    before = await registry.create(token().hash)
    change = store.change_sessions

    async def unavailable(*changes: Any) -> None:
        raise StoreUnavailable("the disk is full")

    monkeypatch.setattr(store, "change_sessions", unavailable)
    registry.end_all(token().hash)
    with pytest.raises(StoreUnavailable):
        await registry.flush()
    monkeypatch.setattr(store, "change_sessions", change)
    after = await registry.create(token().hash)
    await registry.flush()
    other = SessionRegistry(store, clock.millis)
    assert await other.find(before) is None
    assert await other.find(after) is not None


async def test_a_refresh_leaves_a_session_that_is_just_being_stored(
    store: SqliteStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read before the commit of a session says nothing about it."""
    registry = SessionRegistry(store, clock.millis)
    change = store.change_sessions

    async def slow(*changes: Any) -> None:
        await registry.refresh()
        await change(*changes)

    monkeypatch.setattr(store, "change_sessions", slow)
    cookie = await registry.create(token().hash)
    monkeypatch.setattr(store, "session", None)
    assert await registry.find(cookie) is not None, "it is known without asking the store"
