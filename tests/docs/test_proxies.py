"""The guide to proxies: nginx and HAProxy as it configures them pass requests, streams and long waits."""

import asyncio
import contextlib
import io
import os
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from tests.support import tour
from tests.support.service import Service
from tests.support.tokens import hash_of, secret_of
from tests.support.waiting import until

ROOT: Final = Path(__file__).parent.parent.parent
GUIDE: Final = (ROOT / "docs/how-to/reverse-proxy.md").read_text()
TOKEN: Final = secret_of("guide")
HEADERS: Final = {"Authorization": f"Bearer {TOKEN}", "Host": "jobs.example.org"}


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def section(heading: str) -> str:
    """Return the first block below a heading of the guide."""
    return tour.blocks(GUIDE.partition(f"\n## {heading}\n")[2])[0].text


def nginx(directory: Path, port: int, upstream: str) -> list[str]:
    """Write the guide's configuration, without TLS and with these ports; return the command."""
    server = section("nginx").replace("listen 443 ssl;", f"listen 127.0.0.1:{port};")
    server = server.replace("http://127.0.0.1:8000", upstream)
    paths = "".join(
        f"{kind}_temp_path {directory}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if Path("/proc/self").stat().st_uid == 0 else ""
    main = f"{user} daemon off; pid {directory}/nginx.pid; error_log stderr; events {{}}"
    text = f"{main}\nhttp {{ access_log off;\n{paths}{server}\n}}"
    (directory / "nginx.conf").write_text(text)
    return ["nginx", "-c", str(directory / "nginx.conf"), "-p", str(directory)]


def haproxy(directory: Path, port: int, upstream: str) -> list[str]:
    """Write the guide's configuration, without TLS and with these ports; return the command."""
    text = re.sub(r"bind :443 ssl crt \S+", f"bind 127.0.0.1:{port}", section("HAProxy"))
    text = text.replace("127.0.0.1:8000", upstream.removeprefix("http://"))
    defaults = "defaults\n    timeout connect 5s\n    timeout client 60s\n    timeout server 60s\n"
    (directory / "haproxy.cfg").write_text(defaults + text)
    return ["haproxy", "-db", "-f", str(directory / "haproxy.cfg")]


def bare_nginx(directory: Path, port: int, upstream: str) -> list[str]:
    """Write a configuration that leaves everything at its default but the addresses; return the command."""
    command = nginx(directory, port, upstream)
    path = directory / "nginx.conf"
    before, begin, _ = path.read_text().partition("server {")
    path.write_text(f"{before}{begin} listen 127.0.0.1:{port}; location / {{ proxy_pass {upstream}; }} }} }}")
    return command


def bare_haproxy(directory: Path, port: int, upstream: str) -> list[str]:
    """Write a configuration with nothing but the addresses and the usual minute; return the command."""
    (directory / "haproxy.cfg").write_text(
        "defaults\n    mode http\n    timeout connect 5s\n    timeout client 60s\n    timeout server 60s\n"
        f"listen jobs\n    bind 127.0.0.1:{port}\n    server local {upstream.removeprefix('http://')}\n"
    )
    return ["haproxy", "-db", "-f", str(directory / "haproxy.cfg")]


GUIDES: Final = {"nginx": nginx, "haproxy": haproxy}
BARE: Final = {"bare-nginx": bare_nginx, "bare-haproxy": bare_haproxy}
PROXIES: Final = {**GUIDES, **BARE}


@pytest.fixture(params=GUIDES)
async def proxied(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """Yield the address of a proxy before a service that is configured as the guide says."""
    name: str = request.param
    program = name.removeprefix("bare-")
    if shutil.which(program) is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{program} is not installed")
    (block,) = [block for block in tour.blocks(GUIDE) if block.mark == "config"]
    config = tmp_path / "config.toml"
    config.write_text(block.text.replace("shellrunner1:…", hash_of("guide")))
    config.chmod(0o600)
    service = Service(tmp_path / "state")
    service.program = [*service.program, "--config", str(config)]
    await service.start()
    port = free_port()
    command = PROXIES[name](tmp_path, port, service.url)
    with (tmp_path / "proxy.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        await until(lambda: listens(port) or process.poll() is not None, what="the proxy listens")
        assert process.poll() is None, (tmp_path / "proxy.log").read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)
        await service.clear_away()


def listens(port: int) -> bool:
    """Return whether something accepts connections."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.mark.heavy
async def test_a_proxy_passes_requests_and_streams(proxied: str) -> None:
    """A job is submitted, followed line by line while it runs, and its result is waited for."""
    async with aiohttp.ClientSession(headers=HEADERS) as session:
        spec = {"command": "echo first; read line; echo second", "stdin": {"stream": True}}
        async with session.post(f"{proxied}/api/jobs", json=spec) as response:
            assert response.status == 202, await response.text()
            job = (await response.json())["job_id"]
        async with session.get(f"{proxied}/api/statuses/{job}/output?follow=true") as stream:
            # The second line is written only after this request: the first is not held back by a buffer.
            assert await asyncio.wait_for(stream.content.readline(), 20) == b"first\n"
            async with session.post(f"{proxied}/api/jobs/{job}/stdin?end=true", data=b"go\n") as response:
                assert response.status == 204
            assert await asyncio.wait_for(stream.content.readline(), 20) == b"second\n"
        async with session.get(f"{proxied}/api/statuses/{job}/events") as stream:
            assert b"event: done" in await asyncio.wait_for(stream.read(), 20)


async def test_a_page_behind_a_proxy_may_ask(proxied: str) -> None:
    """The proxy's own origin is accepted, and another is refused."""
    async with aiohttp.ClientSession(headers=HEADERS) as session:
        for origin, status in (("https://jobs.example.org", 200), ("https://example.com", 403)):
            async with session.get(f"{proxied}/api/jobs", headers={"Origin": origin}) as response:
                assert response.status == status, await response.text()


@pytest.mark.heavy
@pytest.mark.parametrize("proxied", BARE, indirect=True)
async def test_n2_plain_output_passes_a_proxy_with_its_defaults(proxied: str) -> None:
    """N2: each line that is followed comes before the next is written, although nothing is configured for it."""
    async with aiohttp.ClientSession(headers=HEADERS) as session:
        spec = {"command": "echo first; read line; echo second", "stdin": {"stream": True}}
        async with session.post(f"{proxied}/api/jobs", json=spec) as response:
            assert response.status == 202, await response.text()
            job = (await response.json())["job_id"]
        url = f"{proxied}/api/statuses/{job}/output?follow=true"
        async with session.get(url) as stream:
            assert await asyncio.wait_for(stream.content.readline(), 2) == b"first\n"
        async with session.get(f"{url}&from=3") as stream:
            assert await asyncio.wait_for(stream.content.readline(), 2) == b"st\n"
            async with session.post(f"{proxied}/api/jobs/{job}/stdin?end=true", data=b"go\n") as response:
                assert response.status == 204
            assert await asyncio.wait_for(stream.content.readline(), 2) == b"second\n"
        async with session.get(f"{proxied}/api/statuses/{job}/events") as stream:
            assert b"event: done" in await asyncio.wait_for(stream.read(), 20)


@pytest.mark.heavy
@pytest.mark.parametrize("proxied", BARE, indirect=True)
async def test_uploads_and_events_pass_a_proxy_with_its_defaults(proxied: str) -> None:
    """The largest input passes whole, and each event comes before the next is caused; a larger input is 413."""
    async with aiohttp.ClientSession(headers=HEADERS) as session:
        spec = {"command": "echo first; wc -c", "stdin": {"stream": True}}
        async with session.post(f"{proxied}/api/jobs", json=spec) as response:
            job = (await response.json())["job_id"]
        url = f"{proxied}/api/jobs/{job}/stdin"
        async with session.get(f"{proxied}/api/statuses/{job}/events") as stream:
            while b"first" not in await asyncio.wait_for(stream.content.readline(), 2):
                pass
            async with session.post(f"{url}?end=true", data=io.BytesIO(b"x" * 2**20)) as response:
                assert response.status == 204, await response.text()
            assert b"1048576" in await asyncio.wait_for(stream.read(), 20)
        async with session.post(url, data=io.BytesIO(b"x" * (2**20 + 1))) as response:
            assert response.status == 413


@pytest.mark.heavy
@pytest.mark.parametrize("proxied", BARE, indirect=True)
async def test_n3_what_is_asked_for_is_less_than_a_proxy_waits(proxied: str) -> None:
    """N3: the longest wait that is applied is shorter than a minute, which proxies wait by default."""
    async with aiohttp.ClientSession(headers=HEADERS) as session:
        spec = {"command": "sleep 0.2"}
        async with session.post(f"{proxied}/api/jobs", json=spec, headers={"Prefer": "wait=60"}) as response:
            assert (response.status, response.headers["Preference-Applied"]) == (200, "wait=55")


@pytest.mark.soak
@pytest.mark.timeout(120)
@pytest.mark.parametrize("proxied", BARE, indirect=True)
async def test_n3_the_longest_wait_is_answered_through_a_proxy(proxied: str) -> None:
    """N3: with all timeouts at their defaults, a job that takes longer is 202 and 200, not the proxy's 504."""
    async with aiohttp.ClientSession(headers=HEADERS) as session:
        spec = {"command": "sleep 90"}
        async with session.post(f"{proxied}/api/jobs", json=spec, headers={"Prefer": "wait=60"}) as response:
            assert response.status == 202
        async with session.post(f"{proxied}/api/jobs/1/cancel") as response:
            assert response.status in (200, 202)
