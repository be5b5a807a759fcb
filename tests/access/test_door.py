"""The door: who is let in by a token, a session, or the kernel's word; over a real history."""

import hashlib
import os
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shellrunner.access import ALL_SCOPES, session_registry
from shellrunner.access.authenticator import Authenticator, open_authenticator
from shellrunner.access.session_registry import SESSION_LIFETIME, SessionRegistry
from shellrunner.access.throttle import BURST
from shellrunner.access.tokens import Tokens
from shellrunner.config import AuthSettings, Token
from shellrunner.errors import NotThisUser, SessionsOff, StoreUnavailable, TokenNeeded, TooManyWrongTokens
from shellrunner.store import Retention
from shellrunner.store.sqlite.store import open_store

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
SECRET = "srt_secret"


def token(secret=SECRET, name="ci", **more):
    return Token(
        **{"name": name, "sha256": hashlib.sha256(secret.encode()).hexdigest(), "scopes": ["read", "run"], **more}
    )


def auth(*tokens, session_cookie=True):
    return AuthSettings(tokens=list(tokens or [token()]), tokens_file=None, session_cookie=session_cookie)


class Clock:
    """The time, set by hand."""

    def __init__(self):
        self.now = NOON

    def __call__(self):
        return self.now

    def millis(self):
        return int(self.now.timestamp() * 1000)


@pytest.fixture
def clock():
    return Clock()


@asynccontextmanager
async def history(path):
    for directory in ("slots", "runs"):
        (path / directory).mkdir(exist_ok=True)
    async with open_store(path, Retention()) as store:
        yield store


@pytest.fixture
async def store(tmp_path):
    async with history(tmp_path) as opened:
        yield opened


@pytest.fixture
async def door(store, clock):
    return await doorway(store, clock)


async def doorway(store, clock, config=None):
    """A door as the composition root opens it, but with a clock of ours."""
    kept = SessionRegistry(store, clock.millis)
    await kept.load()
    opened = Authenticator(config or auth(), kept, clock=clock)
    await opened.flush_sessions()
    return opened


# Tokens


async def test_a_token_lets_in_whoever_has_it(door):
    """By its name, with its scopes and nothing more; whatever else is said of it comes along."""
    identity = door.authenticate_token(SECRET, "192.0.2.1")
    assert (identity.name, identity.scopes, identity.is_session) == ("token:ci", {"read", "run"}, False)
    assert identity.token == token()
    assert door.needs_token


@pytest.mark.parametrize(
    "presented",
    [
        "", " ", f" {SECRET}", f"{SECRET} ", SECRET.upper(), f"{SECRET}\0", "жетон", "\udcff",
        hashlib.sha256(SECRET.encode()).hexdigest(), pytest.param("x" * 10_000_000, id="huge"),
    ],
)  # fmt: skip
async def test_what_is_not_the_token_is_wrong(door, presented):
    """Empty, huge, in other letters, with more around it, not ASCII, its hash: wrong, and never an error."""
    with pytest.raises(TokenNeeded) as refused:
        door.authenticate_token(presented, "192.0.2.1")
    assert refused.value.wrong


@settings(deadline=None)
@given(st.text(max_size=40))
def test_only_the_token_itself_is_found(presented):
    """No text but the token is one, also where hashes of odd things are configured."""
    odd = ["", "жетон", "x" * 2000]
    tokens = Tokens([token(), *(token(secret, f"odd{number}") for number, secret in enumerate(odd))])
    assert tokens.find(SECRET).name == "token:ci"
    for text in (presented, *odd):
        assert (tokens.find(text) is not None) == (text == SECRET)


async def test_each_of_many_tokens_is_itself(store, clock):
    """The first, the last and those between."""
    many = [token(f"secret{number}", f"t{number}") for number in range(50)]
    door = await doorway(store, clock, auth(*many))
    assert [door.authenticate_token(f"secret{number}", "x").name for number in range(50)] == [
        f"token:t{n}" for n in range(50)
    ]


async def test_every_hash_is_compared_whichever_is_right(monkeypatch):
    """Where in the list the right one is, or whether there is one, makes no difference in what is done."""
    compared = []
    real = hashlib.sha256
    tokens = Tokens([token(f"secret{number}", f"t{number}") for number in range(10)])
    monkeypatch.setattr(
        "shellrunner.access.tokens.hmac.compare_digest",
        lambda known, digest: compared.append(digest) or known == digest,
    )
    for presented in ("secret0", "secret9", "wrong"):
        compared.clear()
        tokens.find(presented)
        assert compared == [real(presented.encode()).digest()] * 10


async def test_a_token_is_over_when_it_expires(store, clock):
    """At that very moment, for what is open too."""
    door = await doorway(store, clock, auth(token(expires=NOON + timedelta(seconds=1))))
    identity = door.authenticate_token(SECRET, "x")
    assert door.is_still_valid(identity)
    clock.now += timedelta(seconds=1)
    assert not door.is_still_valid(identity)
    with pytest.raises(TokenNeeded):
        door.authenticate_token(SECRET, "x")


async def test_wrong_tokens_are_heard_only_so_often_and_right_ones_always(door):
    """After a burst they are told to wait, from that place only; the right one is let in from there all the same."""
    for _ in range(BURST):
        with pytest.raises(TokenNeeded):
            door.authenticate_token("wrong", "192.0.2.1")
        assert door.authenticate_token(SECRET, "192.0.2.1")
    with pytest.raises(TooManyWrongTokens) as refused:
        door.authenticate_token("wrong", "192.0.2.1")
    assert 0 < refused.value.retry_after <= 6
    for _ in range(100):
        assert door.authenticate_token(SECRET, "192.0.2.1").name == "token:ci"
    with pytest.raises(TokenNeeded):
        door.authenticate_token("wrong", "192.0.2.2")


# Reloading


async def test_a_revoked_token_is_over_at_once(door):
    """Also for what is open; another token under its name is another's."""
    identity = door.authenticate_token(SECRET, "x")
    door.reload(auth(token("other")))
    assert not door.is_still_valid(identity)
    with pytest.raises(TokenNeeded):
        door.authenticate_token(SECRET, "x")
    assert door.authenticate_token("other", "x").name == "token:ci"


@pytest.mark.parametrize(
    ("scopes", "goes_on"), [(["read", "run"], True), (["admin", "run", "read"], True), (["read"], False)]
)
async def test_what_is_open_goes_on_while_its_token_may_do_as_much(door, scopes, goes_on):
    """A token that lost a scope is asked for anew; one that was renamed, or got one, goes on."""
    identity = door.authenticate_token(SECRET, "x")
    door.reload(auth(token(name="renamed", scopes=scopes)))
    assert door.is_still_valid(identity) == goes_on


async def test_the_last_token_that_goes_leaves_nobody(door):
    """Without tokens, a door that had some since the start still asks for one."""
    identity = door.authenticate_token(SECRET, "x")
    door.reload(AuthSettings(tokens=[], tokens_file=None))
    assert door.needs_token
    assert not door.is_still_valid(identity)
    assert door.is_still_valid(door.authenticate_uid(os.geteuid()))
    with pytest.raises(TokenNeeded):
        door.authenticate_token(SECRET, "x")


# Users


async def test_the_services_own_user_may_do_everything(door):
    """And is known by its number."""
    identity = door.authenticate_uid(os.geteuid())
    assert (identity.name, identity.scopes, identity.token) == (f"uid:{os.geteuid()}", ALL_SCOPES, None)
    assert door.is_still_valid(identity)


@pytest.mark.parametrize("uid", [None, os.geteuid() + 1, 65_534, -1])
async def test_another_user_is_told_what_would_help(door, uid):
    """Nobody else is let in by the kernel's word, and whom it cannot name neither."""
    with pytest.raises(NotThisUser, match=r"auth\.tokens") as refused:
        door.authenticate_uid(uid)
    assert "could not be determined" in refused.value.detail if uid is None else f"uid {uid}" in refused.value.detail


# Sessions


async def test_a_session_is_good_for_reading_only(door):
    """It lets in under the token's name, with nothing but `read`; its cookie is long, new each time, and no token."""
    identity = door.authenticate_token(SECRET, "x")
    cookies = {await door.create_session(identity) for _ in range(3)}
    assert len(cookies) == 3
    for cookie in cookies:
        assert len(cookie) >= 43
        watcher = door.authenticate_session(cookie)
        assert (watcher.name, watcher.scopes, watcher.is_session) == ("token:ci", {"read"}, True)
        assert door.is_still_valid(watcher)
        with pytest.raises(TokenNeeded):
            door.authenticate_token(cookie, "x")


@pytest.mark.parametrize("cookie", ["", "x", "жетон", "\udcff", SECRET, pytest.param("x" * 1_000_000, id="huge")])
async def test_what_is_no_session_lets_nobody_in(door, cookie):
    """Never an error, and the token itself is no cookie."""
    await door.create_session(door.authenticate_token(SECRET, "x"))
    assert door.authenticate_session(cookie) is None


async def test_nobody_can_read_the_cookie_where_it_is_kept(door, store, tmp_path):
    """The history has its SHA-256 only: neither the cookie nor the token is in any file."""
    cookie = await door.create_session(door.authenticate_token(SECRET, "x"))
    (session,) = await store.sessions()
    assert session.digest == hashlib.sha256(cookie.encode()).digest()
    assert session.token == token().sha256
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert session.digest in everything
    assert cookie.encode() not in everything
    assert SECRET.encode() not in everything


async def test_a_session_is_over_after_twelve_hours(door, clock, store):
    """At that very moment, and the next one that begins takes it out of the history."""
    identity = door.authenticate_token(SECRET, "x")
    cookie = await door.create_session(identity)
    watcher = door.authenticate_session(cookie)
    clock.now += timedelta(seconds=SESSION_LIFETIME, milliseconds=-1)
    assert door.is_still_valid(watcher)
    clock.now += timedelta(milliseconds=1)
    assert door.authenticate_session(cookie) is None
    assert not door.is_still_valid(watcher)
    assert len(await store.sessions()) == 1
    await door.create_session(identity)
    assert len(await store.sessions()) == 1
    assert SESSION_LIFETIME == 43_200


async def test_a_token_has_so_many_sessions(door, store, monkeypatch):
    """With one more than it may have, its oldest ends; those of other tokens do not."""
    monkeypatch.setattr(session_registry, "MAX_SESSIONS_PER_TOKEN", 5)
    door.reload(auth(token(), token("other", "other")))
    others = await door.create_session(door.authenticate_token("other", "x"))
    cookies = [await door.create_session(door.authenticate_token(SECRET, "x")) for _ in range(8)]
    assert [door.authenticate_session(cookie) is not None for cookie in cookies] == [False] * 3 + [True] * 5
    assert door.authenticate_session(others)
    assert len(await store.sessions()) == 6


async def test_sessions_survive_the_process(tmp_path, clock):
    """Begun before a restart, a session is good after it, and no longer than it was given."""
    async with history(tmp_path) as store:
        door = await doorway(store, clock)
        cookie = await door.create_session(door.authenticate_token(SECRET, "x"))
    async with history(tmp_path) as store:
        assert (await doorway(store, clock)).authenticate_session(cookie).name == "token:ci"
        clock.now += timedelta(hours=13)
        assert (await doorway(store, clock)).authenticate_session(cookie) is None
        assert await store.sessions() == []


async def test_ending_sessions_ends_all_of_the_token_for_good(store, clock):
    """Those of other tokens go on, also in the next process."""
    both = auth(token(), token("other", "other"))
    door = await doorway(store, clock, both)
    mine = [await door.create_session(door.authenticate_token(SECRET, "x")) for _ in range(2)]
    others = await door.create_session(door.authenticate_token("other", "x"))
    watcher = door.authenticate_session(mine[0])
    await door.end_sessions(door.authenticate_token(SECRET, "x"))
    assert not door.is_still_valid(watcher)
    for each in (door, await doorway(store, clock, both)):
        assert [each.authenticate_session(cookie) for cookie in mine] == [None, None]
        assert each.authenticate_session(others)


@pytest.mark.parametrize(
    "changed",
    [
        auth(token("other", "other")),
        auth(session_cookie=False),
        AuthSettings(tokens=[], tokens_file=None, session_cookie=True),
    ],
    ids=["revoked", "off", "no tokens"],
)
@pytest.mark.parametrize("restarts", [False, True])
async def test_sessions_are_over_for_good_with_their_token(store, clock, changed, restarts):
    """Revoked, or without sessions in config: a session does not come back when its token does."""
    door = await doorway(store, clock)
    cookie = await door.create_session(door.authenticate_token(SECRET, "x"))
    watcher = door.authenticate_session(cookie)
    if restarts:
        door = await doorway(store, clock, changed)
    else:
        door.reload(changed)
        await door.flush_sessions()
    assert door.authenticate_session(cookie) is None
    assert not door.is_still_valid(watcher)
    door.reload(auth())
    assert door.authenticate_session(cookie) is None
    assert (await doorway(store, clock)).authenticate_session(cookie) is None


async def test_a_session_reads_only_while_its_token_may(door):
    """A token without `read` (any more) has sessions that are good for nothing; an expired one too."""
    cookie = await door.create_session(door.authenticate_token(SECRET, "x"))
    watcher = door.authenticate_session(cookie)
    door.reload(auth(token(scopes=["run"])))
    assert door.authenticate_session(cookie) is None
    assert not door.is_still_valid(watcher)
    door.reload(auth(token(expires=NOON)))
    assert door.authenticate_session(cookie) is None
    door.reload(auth())
    assert door.authenticate_session(cookie)


async def test_there_are_no_sessions_unless_config_allows_them(door):
    """Nor for whoever came without a token."""
    identity = door.authenticate_token(SECRET, "x")
    with pytest.raises(SessionsOff):
        await door.create_session(door.authenticate_uid(os.geteuid()))
    await door.end_sessions(door.authenticate_uid(os.geteuid()))
    door.reload(auth(session_cookie=False))
    with pytest.raises(SessionsOff):
        await door.create_session(identity)
    await door.end_sessions(identity)


async def test_a_session_that_cannot_be_kept_is_none(tmp_path, clock, monkeypatch):
    """It is not begun; and what cannot be ended in the history is over all the same, and ended there later."""
    async with history(tmp_path) as store:
        door = await doorway(store, clock)
        identity = door.authenticate_token(SECRET, "x")
        cookie = await door.create_session(identity)
        await failing(store)
        with pytest.raises(StoreUnavailable):
            await door.create_session(identity)
        with pytest.raises(StoreUnavailable):
            await door.end_sessions(identity)
        assert door.authenticate_session(cookie) is None
        await failing(store, again=True)
        assert len(await store.sessions()) == 1
        await door.end_sessions(identity)
        assert await store.sessions() == []


async def test_a_session_that_was_not_kept_ends_no_other(store, clock, monkeypatch):
    """It does not count towards how many its token may have."""
    monkeypatch.setattr(session_registry, "MAX_SESSIONS_PER_TOKEN", 2)
    door = await doorway(store, clock)
    identity = door.authenticate_token(SECRET, "x")
    first = await door.create_session(identity)
    await failing(store)
    with pytest.raises(StoreUnavailable):
        await door.create_session(identity)
    await failing(store, again=True)
    assert door.authenticate_session(await door.create_session(identity))
    assert door.authenticate_session(first)


async def test_what_has_ended_is_forgotten(door):
    """Once the history was told of it; nothing of it is left in memory, however many sessions there were."""
    identity = door.authenticate_token(SECRET, "x")
    for _ in range(3):
        await door.create_session(identity)
        await door.end_sessions(identity)
    assert not door._sessions._open
    assert not door._sessions._ended


async def failing(store, *, again=False):
    """Have every change of the sessions fail in SQLite, or no longer."""
    for verb in ("INSERT", "DELETE"):
        name = f"refuse_{verb}"
        step = f"CREATE TRIGGER {name} BEFORE {verb} ON sessions BEGIN SELECT RAISE(FAIL, 'disk I/O error'); END"
        sql = f"DROP TRIGGER {name}" if again else step
        await store._write(lambda db, sql=sql: db.execute(sql).close())


async def test_the_door_opens_with_the_sessions_of_before(store, clock):
    """As the composition root does it, by the clock on the wall."""
    first = await open_authenticator(auth(), store)
    cookie = await first.create_session(first.authenticate_token(SECRET, "x"))
    assert (await open_authenticator(auth(), store)).authenticate_session(cookie)
