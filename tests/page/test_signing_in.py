"""Signing in to a service that requires a token."""

import json
from pathlib import Path
from typing import Any

import pytest

from shellrunner.config import Settings
from tests.support.service import at_fixed_port
from tests.support.tokens import hash_of, secret_of

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif("auth" not in Settings.model_fields, reason="needs tokens"),
]
TOKEN = secret_of("right")


async def test_a_token_is_requested_and_sent_with_streams(tmp_path: Path, open_tab: Any) -> None:
    """Each stream carries the token in a header, also after a restart; no URL and no storage ever has it."""
    tokens = [{"name": "person", "hash": hash_of("right"), "scopes": ["read", "run"]}]
    async with at_fixed_port(tmp_path / "state", AUTH__TOKENS=json.dumps(tokens)) as service:
        tab = await open_tab(service, errors=["ERR_|NetworkError"])
        await tab.wait_for("#sign-in")
        await tab.page.fill("#token", "wrong")
        await tab.page.keyboard.press("Enter")
        await tab.wait_for("#token-error", "unknown or has expired")
        requests = []
        tab.page.on("request", lambda request: requests.append(request))  # noqa: PLW0108  playwright sets an attribute on it
        await tab.page.fill("#token", TOKEN)
        await tab.page.keyboard.press("Enter")
        rest = f"until test -e {tmp_path}/go; do sleep 0.02; done; seq -f 'line %g' 21 200"
        await tab.run(f"seq -f 'line %g' 20; {rest}")
        await tab.wait_for_output("line 20")
        await service.kill()
        await tab.wait_for('#job-connection[data-state="waiting"]')
        (tmp_path / "go").touch()
        await service.start()
        await tab.wait_until_ended("exit 0")
        assert (await tab.copy_output()).split("\n")[:-1] == [f"line {each}" for each in range(1, 201)]
        streams = [request for request in requests if "/events" in request.url]
        assert {request.resource_type for request in streams} == {"fetch"}
        assert all([await request.header_value("authorization") == f"Bearer {TOKEN}" for request in streams])
        assert TOKEN not in "".join(request.url for request in requests)
        stored = "JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie])"
        assert await tab.page.evaluate(stored) == '[{},{},""]'
        async with tab.page.expect_download() as waiting:
            await tab.page.click("#download summary")
            await tab.page.click('#download [data-stream=""]')
        assert (await waiting.value).suggested_filename.startswith("job-")
        await tab.page.route("**/output", lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>"))
        await tab.page.click("#download summary")
        await tab.page.click('#download [data-stream=""]')
        await tab.wait_for("#output-note", "The download failed: Received status 502")
        await tab.page.click("#sign-out")
        await tab.wait_for("#sign-in")
