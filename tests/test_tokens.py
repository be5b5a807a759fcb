"""Tokens from end to end: made on the command line, put into a file, shown over HTTP, revoked by SIGHUP."""

import asyncio
import contextlib
import io
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from shellrunner.access.throttle import BURST
from shellrunner.cli.verb_group import cli
from shellrunner.config import Token, load
from shellrunner.config.token_hash import hash_secret
from shellrunner.errors import ConfigError
from tests.support.service import Service
from tests.support.tokens import hash_of
from tests.support.users import NOBODY, as_root
from tests.support.waiting import until

PROGRAM = [sys.executable, "-m", "shellrunner"]
SHIPPED = Path(__file__).parent.parent / "config.toml"


class Completed(NamedTuple):
    """The exit code and output of a command line."""

    status: int
    stdout: str
    stderr: str


def token(*arguments: Any) -> Any:
    """Run `shellrunner token` to its end, in this process: there are many."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr), pytest.raises(SystemExit) as ended:
        cli.main(["token", *map(str, arguments)], prog_name="shellrunner")
    assert isinstance(ended.value.code, int)
    return Completed(ended.value.code, stdout.getvalue(), stderr.getvalue())


def created(*arguments: Any) -> tuple[Any, ...]:
    """Make a token; return it and its lines for the configuration."""
    made = token("create", *arguments)
    assert made.status == 0, made.stderr
    (secret,) = made.stdout.splitlines()
    return secret, made.stderr


# The command line


def test_a_token_is_alone_on_standard_output_and_its_lines_on_standard_error() -> None:
    """Standard output has only the token, standard error has nothing of it, and no two tokens are the same."""
    one, other = created("ci"), created("ci")
    for secret, lines in (one, other):
        assert re.fullmatch(r"srt_[A-Za-z0-9_-]{43}", secret)
        assert secret.removeprefix("srt_") not in lines
        assert tomllib.loads(lines) == {
            "auth": {
                "tokens": [
                    {
                        "name": "ci",
                        "hash": hash_secret(secret),
                        "scopes": ["read", "run"],
                    }
                ]
            }
        }
        assert "config.toml" in lines
        assert "auth.tokens_file" in lines
    assert one[0] != other[0]


def test_what_is_asked_for_is_in_the_lines() -> None:
    """Scopes, each once, expiry and user, as the configuration has them."""
    _, lines = created("a.b-c_1", "--scope", "admin", "--scope", "read", "--scope", "admin", "--expires",
                       "2127-01-01", "--run-as", "deploy")  # fmt: skip
    (found,) = tomllib.loads(lines)["auth"]["tokens"]
    assert found == {
        "name": "a.b-c_1", "hash": found["hash"], "scopes": ["read", "admin"], "run_as": "deploy",
        "expires": datetime(2127, 1, 1, tzinfo=UTC),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "span"), [("90d", timedelta(days=90)), ("12h", timedelta(hours=12)), ("1d12h", timedelta(days=1.5))]
)
def test_a_span_counts_from_now(given: str, span: Any) -> None:
    """--expires takes days or hours from now."""
    before = datetime.now(UTC)
    (found,) = tomllib.loads(created("ci", "--expires", given)[1])["auth"]["tokens"]
    assert timedelta(0) <= found["expires"] - span - before.replace(microsecond=0) < timedelta(seconds=20)


@pytest.mark.parametrize(
    ("given", "moment"),
    [
        ("2127-01-01T12:30:00Z", datetime(2127, 1, 1, 12, 30, tzinfo=UTC)),
        ("2127-01-01T00:00:00+02:00", datetime(2126, 12, 31, 22, tzinfo=UTC)),
        ("2127-01-01T12:30", datetime(2127, 1, 1, 12, 30, tzinfo=UTC)),
    ],
)
def test_a_moment_without_an_offset_is_in_utc(given: str, moment: Any) -> None:
    """--expires takes a time in UTC, and a date as its midnight."""
    (found,) = tomllib.loads(created("ci", "--expires", given)[1])["auth"]["tokens"]
    assert found["expires"] == moment


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a b"], "must be 1 to 63 letters, digits, dots, dashes or underscores"),
        (["a\nb"], "must be 1 to 63 letters"),
        ([""], "must be 1 to 63 letters"),
        (["ci", "--scope", "write"], "'write' is not one of 'read', 'run', 'admin'"),
        (["ci", "--expires", "12"], "must be a duration such as 90d or 12h, or a date"),
        (["ci", "--expires", "soon"], "must be a duration such as 90d or 12h, or a date"),
        (["ci", "--expires", "5m"], "must be a duration such as 90d or 12h, or a date"),
        (["ci", "--expires", "99999999d"], "must be a duration such as 90d or 12h, or a date"),
        (["ci", "--expires", "2020-01-01"], "must be in the future"),
        (["ci", "--expires", "0d"], "must be in the future"),
        (["ci", "--run-as", ""], "must be the name of a user"),
        (["ci", "--run-as", 'a"\n'], "must be the name of a user"),
        ([], "Missing argument 'NAME'"),
    ],
)
def test_a_token_that_would_be_invalid_is_not_created(arguments: list[Any] | list[str], words: str) -> None:
    """An invalid option exits with code 2 and a message, and creates no token."""
    done = token("create", *arguments)
    assert (done.status, done.stdout) == (2, "")
    assert words in " ".join(done.stderr.replace("│", "").split())


def test_shares_and_a_profile_are_in_the_lines() -> None:
    """As the configuration reads them; what is no network or no name is refused."""
    shares = {"max_queued": 5, "max_running": 2, "requests_per_second": 3}
    options = [word for key, value in shares.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    _, lines = created("ci", "--profile", "closed", "--network", "::ffff:10.0.0.0/104", "--network", "unix", *options)
    (table,) = tomllib.loads(lines)["auth"]["tokens"]
    parsed = Token.model_validate(table).model_dump()
    assert parsed.items() >= {**shares, "profile": "closed", "networks": ["10.0.0.0/8", "unix"]}.items()
    for wrong in (("--network", "10.0.0.1/8"), ("--profile", "a b"), ("--max-queued", "0")):
        assert token("create", "ci", *wrong).status == 2


@pytest.mark.heavy
def test_the_lines_can_be_appended_as_they_are(tmp_path: Path) -> None:
    """`2>>` to config.toml as it is shipped, and to a file that has others, is all there is to do."""
    path = tmp_path / "config.toml"
    path.write_text(SHIPPED.read_text())
    path.chmod(0o600)
    with path.open("a") as file:
        for name in ("ci", "deploy"):
            words = [*PROGRAM, "token", "create", name]
            subprocess.run(words, stdout=subprocess.DEVNULL, stderr=file, check=True, timeout=30)
    assert [each.name for each in load(path).auth.tokens] == ["ci", "deploy"]


def test_the_list_has_every_token_and_no_hash(tmp_path: Path) -> None:
    """Names, scopes, expiry, user and whether the commands are limited; expired ones are marked."""
    secret, lines = created("ci", "--expires", "2127-01-01")
    path = tmp_path / "config.toml"
    path.write_text(lines + lines.replace("ci", "old").replace("2127-01-01", "2020-01-01")
                    .replace(hash_secret(secret), hash_of("old"))
                    + 'commands = [{ argv = ["uptime"] }]\nprofile = "strict"\nmax_queued = 3\n'
                    + 'requests_per_second = 0.5\nnetworks = ["10.0.0.0/8"]\n[profiles.strict]\n')  # fmt: skip
    path.chmod(0o600)
    heading, *rows = token("list", "--config", path).stdout.splitlines()
    assert heading.split() == ["NAME", "SCOPES", "EXPIRES", "RUN", "AS", "PROFILE", "COMMANDS", "LIMITS"]
    assert [" ".join(row.split()) for row in rows] == [
        "ci read,run 2127-01-01T00:00:00Z - - any -",
        "old read,run 2020-01-01T00:00:00Z (expired) - strict 1 rule 3 queued, 0.5 requests/s, 10.0.0.0/8",
    ]
    nothing = token("list")
    assert (nothing.stdout, nothing.stderr.split(":")[0]) == ("", "no tokens")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod g-w,o="):
        token("list", "--config", path)


# The service


class Guarded(Service):
    """A service whose tokens lie in a file of their own."""

    def __init__(self, directory: Any) -> None:
        super().__init__(directory / "state")
        self.config, self.tokens = directory / "config.toml", directory / "tokens.toml"
        self.secrets: dict[str, Any] = {}
        self.program += ["--config", str(self.config)]

    def write(self, *tokens: Any, config: str = "session_cookie = true") -> None:
        """Write the files: each token is a name, perhaps with options, and is made once."""
        self.config.write_text(f"[auth]\ntokens_file = '{self.tokens}'\n{config}\n")
        self.tokens.touch(0o600)
        for name, *options in tokens:
            self.secrets[name] = self.secrets.get(name) or created(name, *options)
        self.tokens.write_text("".join(self.secrets[name][1] for name, *_ in tokens))

    def shown(self, name: Any) -> dict[str, Any]:
        """Return the header with a token."""
        return {"Authorization": f"Bearer {self.secrets[name][0] if name in self.secrets else name}"}

    async def asked(self, name: Any, verb: str = "GET", path: str = "/api/jobs", **more: Any) -> Any:
        """Return the status of the response to a client with this token.

        On a connection of its own: a reload ends idle ones of tokens that it changes, a moment after its log line.
        """
        status, _, _ = await self.ask(verb, path, headers={**self.shown(name), "Connection": "close"}, **more)
        return status

    async def reload(self, event: str = "reloaded") -> Any:
        """Send SIGHUP; return what the log says of it."""
        before = len(self.log)
        self.process.send_signal(signal.SIGHUP)

        def logged() -> Any:
            return next((entry for entry in self.log[before:] if entry["event"].startswith(event)), None)

        return await until(logged, what=f"the log has {event}")


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Any]:
    service = Guarded(tmp_path)
    try:
        yield service
    finally:
        await service.clear_away()
        for line in service.log[-40:]:
            print(line)


@pytest.mark.heavy
async def test_a_token_does_what_its_scopes_say(guarded: Any) -> None:
    """Each scope alone gives access to its own routes; without a valid token no route is accessible."""
    scopes = ("read", "run", "admin")
    guarded.write(*[(scope, "--scope", scope) for scope in scopes], ("gone", "--expires", "2127-01-01"))
    guarded.tokens.write_text(guarded.tokens.read_text().replace("2127-01-01", "2020-01-01"))
    await guarded.start()
    warnings = await until(lambda: [each for each in guarded.log if each["event"].startswith("tokens have expired")])
    assert warnings[0]["tokens"] == ["gone"]
    needs = {
        "read": ("GET", "/api/jobs", {}, 200),
        "run": ("POST", "/api/jobs", {"json": {"command": "true"}}, 202),
        "admin": ("POST", "/api/queues/pause", {}, 200),
    }
    for scope, (verb, path, more, good) in needs.items():
        for name in scopes:
            assert await guarded.asked(name, verb, path, **more) == (good if name == scope else 403)
        for name in ("gone", "srt_wrong"):
            status, headers, _ = await guarded.ask(verb, path, headers=guarded.shown(name), **more)
            assert status == 401
            assert headers["WWW-Authenticate"] == 'Bearer realm="shellrunner", error="invalid_token"'
        status, headers, body = await guarded.ask(verb, path, **more)
        assert (status, headers["WWW-Authenticate"]) == (401, 'Bearer realm="shellrunner"')
        assert body["type"] == "/problems/token-needed"
    _, headers, body = await guarded.ask("GET", "/api/jobs", headers=guarded.shown("run"))
    assert headers["WWW-Authenticate"] == 'Bearer realm="shellrunner", error="insufficient_scope", scope="read"'
    assert (body["type"], body["scope"]) == ("/problems/insufficient-scope", "read")
    assert len((await guarded.ask("GET", "/api/jobs", headers=guarded.shown("read")))[2]["jobs"]) == 1


@pytest.mark.heavy
async def test_too_many_wrong_tokens_must_wait_and_a_right_one_never_does(guarded: Any) -> None:
    """429 with Retry-After from the eleventh on; the right token is served in between and afterwards."""
    guarded.write(("ci",))
    await guarded.start()
    answers = []
    for number in range(BURST + 5):
        status, headers, body = await guarded.ask("GET", "/api/jobs", headers=guarded.shown(f"srt_{number}"))
        answers.append((status, headers.get("Retry-After"), body["type"]))
        assert await guarded.asked("ci") == 200
    assert answers[:BURST] == [(401, None, "/problems/token-needed")] * BURST
    for status, seconds, kind in answers[BURST:]:
        assert (status, kind) == (429, "/problems/too-many-wrong-tokens")
        assert 1 <= int(seconds) <= 6


@pytest.mark.heavy
async def test_a_reload_admits_the_tokens_that_the_files_name_now(guarded: Any) -> None:
    """An added token is valid, a removed one is not and its stream ends, and the log names both, without a hash."""
    guarded.write(("ci",), ("old",))
    await guarded.start()
    assert [await guarded.asked(name) for name in ("ci", "old")] == [200, 200]
    streams = [
        await guarded.session.get(f"{guarded.url}/api/statuses/events", headers=guarded.shown(name))
        for name in ("ci", "old")
    ]
    guarded.write(("ci",), ("new",))
    entry = await guarded.reload()
    async with asyncio.timeout(1):
        with pytest.raises(aiohttp.ClientError):
            await streams[1].read()
    assert not streams[0].content.at_eof()
    streams[0].close()
    assert entry["changed"] == ["auth.tokens"]
    assert (entry["tokens_added"], entry["tokens_removed"], "tokens_changed" in entry) == (["new"], ["old"], False)
    assert [await guarded.asked(name) for name in ("ci", "old", "new")] == [200, 401, 200]
    guarded.tokens.write_text(guarded.tokens.read_text().replace('"read", "run"', '"run"'))
    assert (await guarded.reload())["tokens_changed"] == ["ci", "new"]
    assert await guarded.asked("ci") == 403
    assert (await guarded.reload())["changed"] == []


async def test_a_reload_applies_the_shares_of_tokens(guarded: Any) -> None:
    """A new `max_queued`, rate or network holds from the reload on, and what waits already counts."""
    guarded.write(("ci",))
    await guarded.start()
    later = {"json": {"command": "true", "start_at": "2100-01-01T00:00:00Z"}}
    assert await guarded.asked("ci", "POST", "/api/jobs", **later) == 202
    unlimited = guarded.tokens.read_text()
    for shares, verb, status in (
        ("max_queued = 1", "POST", 429),
        ('networks = ["::/0"]', "GET", 403),
        ("", "POST", 202),
    ):
        guarded.tokens.write_text(f"{unlimited}\n{shares}\n")
        await guarded.reload()
        assert await guarded.asked("ci", verb, "/api/jobs", **(later if verb == "POST" else {})) == status


@pytest.mark.heavy
async def test_a_reload_of_an_invalid_file_changes_nothing_and_logs_why(guarded: Any) -> None:
    """The old configuration stays, the log has the place of the mistake, and the next valid one is applied."""
    guarded.write(("ci",))
    await guarded.start()
    guarded.write(("ci",), ("new",), config="session_cookie = 1")
    guarded.tokens.chmod(0o644)
    entry = await guarded.reload("not reloaded")
    assert (entry["level"], entry["reasons"]) == (
        "error", [f"{guarded.config}, line 3: auth.session_cookie: must be true or false"],
    )  # fmt: skip
    assert [await guarded.asked(name) for name in ("ci", "new")] == [200, 401]
    guarded.config.unlink()
    entry = await guarded.reload("not reloaded")
    assert entry["reasons"] == [f"{guarded.config}: cannot be read: No such file or directory"]
    guarded.write(("ci",), ("new",))
    entry = await guarded.reload("not reloaded")
    assert "chmod g-w,o=" in entry["reasons"][0]
    guarded.tokens.chmod(0o600)
    await guarded.reload()
    assert [await guarded.asked(name) for name in ("ci", "new")] == [200, 200]


@pytest.mark.parametrize("number", ["1" * 5000, "[" * 5000], ids=["a number without end", "lists in lists"])
async def test_a_reload_of_what_cannot_be_read_does_not_end_the_service(guarded: Any, number: str) -> None:
    """A file on which the TOML parser itself fails is refused like any other mistake."""
    guarded.write(("ci",))
    await guarded.start()
    guarded.write(("ci",), config=f"session_cookie = {number}")
    entry = await guarded.reload("not reloaded")
    assert entry["reasons"][0].startswith(f"{guarded.config}: ")
    assert await guarded.asked("ci") == 200


async def test_a_configuration_that_came_by_a_pipe_is_not_reloaded(guarded: Any) -> None:
    """A pipe is not read again: it is empty by then, which would remove every token and the need for one."""
    guarded.write(("ci",))
    reading, writing = os.pipe()
    os.write(writing, guarded.config.read_bytes())
    os.close(writing)
    guarded.program[-1] = f"/dev/fd/{reading}"
    guarded.passed = [reading]
    await guarded.start()
    os.close(reading)
    entry = await guarded.reload("not reloaded")
    assert entry["reasons"] == [f"/dev/fd/{reading}: must be a regular file: a pipe cannot be read again at SIGHUP"]
    assert [await guarded.asked("ci"), (await guarded.ask("GET", "/api/jobs"))[0]] == [200, 401]


async def test_a_reload_logs_what_needs_a_restart(guarded: Any) -> None:
    """What cannot change while the service runs is named, every time, and is not applied; overrides stand."""
    guarded.write(("ci",))
    await guarded.start(LOG__LEVEL="info")
    guarded.write(("ci",), config="session_cookie = false\n[server]\nport = 1\nmax_streams = 7\n[queues.a]\n")
    for changed in (["auth.session_cookie"], []):
        assert (await guarded.reload())["changed"] == changed
        (warned,) = await until(lambda: [entry for entry in guarded.log if "need a restart" in entry["event"]])
        assert (warned["level"], warned["settings"]) == ("warning", ["server.max_streams", "queues.a"])
        guarded.log.clear()
    assert await guarded.asked("ci", "POST", "/api/session") == 403


@pytest.mark.heavy
async def test_the_certificate_is_reloaded_with_the_tokens_or_neither_is(guarded: Any, tmp_path: Path) -> None:
    """At SIGHUP a new certificate is used; with an invalid one, the tokens stay unchanged, too."""
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"

    def certify() -> Any:
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -days 2"
        subprocess.run([*command.split(), "-keyout", key, "-out", chain], check=True, capture_output=True)
        key.chmod(0o600)
        return chain.read_text()

    def shown() -> Any:
        return ssl.get_server_certificate(("127.0.0.1", int(guarded.url.rpartition(":")[2])))

    first = certify()
    guarded.write(("ci",))
    await guarded.start(SERVER__TLS_CERT=chain, SERVER__TLS_KEY=key)
    assert shown() == first
    second = certify()
    await guarded.reload()
    assert shown() == second
    key.write_text("nothing")
    guarded.write(("new",))
    assert "server.tls_key" in (await guarded.reload("not reloaded"))["reasons"][0]
    assert shown() == second
    assert [await guarded.asked(name, ssl=False) for name in ("ci", "new")] == [200, 401]


@pytest.mark.heavy
async def test_the_last_token_that_goes_leaves_nobody_until_a_restart(guarded: Any) -> None:
    """A reload never admits clients that were rejected; a restart without tokens serves the service's own user."""
    guarded.write(("ci",))
    await guarded.start()
    assert (await guarded.get("/api/jobs"))[0] == 401
    guarded.write()
    assert (await guarded.reload())["tokens_removed"] == ["ci"]
    assert (await guarded.get("/api/jobs"))[0] == 401
    await guarded.restart()
    assert (await guarded.get("/api/jobs"))[0] == 200


@pytest.mark.heavy
async def test_a_session_survives_kill_9_and_ends_with_its_token(guarded: Any) -> None:
    """The cookie is valid after a restart, and invalid once its token was revoked, even if that returns."""
    guarded.write(("ci",), ("other",))
    await guarded.start()
    status, headers, _ = await guarded.ask("POST", "/api/session", headers=guarded.shown("ci"))
    assert status == 204
    value = headers["Set-Cookie"].partition(";")[0].partition("=")[2]

    async def watched() -> Any:
        port = guarded.url.rpartition(":")[2]
        return (await guarded.get("/api/statuses", headers={"Cookie": f"shellrunner-{port}={value}"}))[0]

    assert await watched() == 200
    await guarded.restart()
    assert await watched() == 200
    guarded.write(("other",))
    await guarded.reload()
    assert await watched() == 401
    guarded.write(("ci",), ("other",))
    await guarded.reload()
    await guarded.restart()
    assert await watched() == 401
    assert await guarded.asked("ci") == 200


@pytest.mark.heavy
async def test_a_token_is_nowhere_but_with_its_owner(guarded: Any) -> None:
    """Not in the log at any level, not in a job's environment, not in the state directory, nor in `ps`."""
    guarded.write(("ci",))
    await guarded.start(LOG__LEVEL="debug")
    secret = guarded.secrets["ci"][0]
    headers = guarded.shown("ci") | {"Prefer": "wait=20"}
    _, _, result = await guarded.ask("POST", "/api/jobs", headers=headers, json={"command": "env; ps -ef"})
    assert result["exit_code"] == 0
    await guarded.asked("ci", "POST", "/api/session")
    await guarded.asked(f"{secret}x")
    await guarded.asked("ci", path="/api/jobs?nonsense=1")
    await guarded.ask("GET", "/api/jobs", headers={"Authorization": f"Basic {secret}"})
    await guarded.stop()
    kept = b"".join(path.read_bytes() for path in guarded.state_dir.rglob("*") if path.is_file())
    for place in (json.dumps(guarded.log), result["stdout"], kept.decode("latin-1")):
        assert secret not in place
    assert any("who" in entry and entry["who"] == "token:ci" for entry in guarded.log)


@pytest.mark.heavy
@as_root
async def test_with_tokens_the_uid_lets_in_on_the_unix_socket_only(guarded: Any, tmp_path: Path) -> None:
    """On the Unix socket the service's own user needs no token, and other users do."""
    path = tmp_path / "socket"
    guarded.write(("ci",))
    guarded.program = [*PROGRAM, "serve", "--listen", f"unix:{path}", "--config", str(guarded.config)]
    await guarded.start(SERVER__SOCKET_MODE="0666")
    for directory in (tmp_path, *tmp_path.parents[:-1]):
        directory.chmod(directory.stat().st_mode | 0o011)
    code = (
        "import os, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); os.setuid(int(sys.argv[1])); s.connect(sys.argv[2])\n"
        "s.sendall(b'GET /api/jobs HTTP/1.0\\r\\nHost: localhost\\r\\n' + sys.argv[3].encode() + b'\\r\\n')\n"
        "print(s.recv(99).split()[1].decode())"
    )

    def status(uid: Any, *headers: Any) -> Any:
        lines = "".join(f"{line}\r\n" for line in headers)
        words = [sys.executable, "-I", "-S", "-c", code, str(uid), str(path), lines]
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    bearer = f"Authorization: Bearer {guarded.secrets['ci'][0]}"
    assert status(0) == "200"
    assert status(NOBODY.pw_uid) == "401"
    assert status(NOBODY.pw_uid, bearer) == "200"
    assert status(0, "Authorization: Bearer wrong") == "401"
    assert status(0, "X-Forwarded-For: 192.0.2.1") == "401"
