"""Signing in where a token is needed."""

import hashlib
import json

import pytest

from shellrunner.config import Settings
from tests.support.service import at_fixed_port

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif("auth" not in Settings.model_fields, reason="there are no tokens yet"),
]
TOKEN = "the-token-that-is-right"


async def test_a_token_is_asked_for_and_streams_carry_it(tmp_path, reading):
    """Nothing is shown before the right token; then all works by fetch with the header, over a restart too; the token
    is nowhere but in memory, and signing out forgets it."""
    tokens = [{"name": "person", "sha256": hashlib.sha256(TOKEN.encode()).hexdigest(), "scopes": ["read", "run"]}]
    async with at_fixed_port(tmp_path / "state", AUTH__TOKENS=json.dumps(tokens)) as service:
        reader = await reading(service, faults=["ERR_|NetworkError"])
        await reader.sees("#sign-in")
        await reader.page.fill("#token", "wrong")
        await reader.page.keyboard.press("Enter")
        await reader.sees("#token-error", "does not know this token")
        asked = []
        reader.page.on("request", lambda request: asked.append(request))  # noqa: PLW0108  it marks the function
        await reader.page.fill("#token", TOKEN)
        await reader.page.keyboard.press("Enter")
        await reader.run("i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo line $i; sleep 0.01; done")
        await reader.says("line 20")
        await service.kill()
        await reader.sees('#job-line[data-line="waiting"]')
        await service.start()
        await reader.ended("exit 0")
        assert (await reader.copied()).split("\n")[:-1] == [f"line {each}" for each in range(1, 201)]
        streams = [request for request in asked if "/events" in request.url]
        assert {request.resource_type for request in streams} == {"fetch"}
        assert all([await request.header_value("authorization") == f"Bearer {TOKEN}" for request in streams])
        assert TOKEN not in "".join(request.url for request in asked)
        kept = "JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie])"
        assert await reader.page.evaluate(kept) == '[{},{},""]'
        async with reader.page.expect_download() as waiting:
            await reader.page.click("#download summary")
            await reader.page.click('#download [data-stream=""]')
        assert (await waiting.value).suggested_filename.startswith("job-")
        await reader.page.route("**/output", lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>"))
        await reader.page.click("#download summary")
        await reader.page.click('#download [data-stream=""]')
        await reader.sees("#note", "It could not be downloaded: The answer was 502")
        await reader.page.click("#sign-out")
        await reader.sees("#sign-in")
