"""Who types into a job: the writer among those that follow it."""

import pytest

from shellrunner.errors import InputTaken
from shellrunner.web.feeds.writers import Writers
from tests.support.service import Service
from tests.support.sse import parse


async def test_the_first_writer_stays_while_it_follows() -> None:
    """Another is refused until it takes the place, or the writer leaves with the last of its streams."""
    writers = Writers()
    with writers.following(1, "b"):
        with writers.following(1, "a"):
            with writers.following(1, "a"):
                await writers.claim(1, "a", take=False)
            with pytest.raises(InputTaken):
                await writers.claim(1, "b", take=False)
            await writers.claim(2, "b", take=False)
            await writers.claim(1, "b", take=True)
            with pytest.raises(InputTaken):
                await writers.claim(1, "a", take=False)
            await writers.claim(1, "a", take=True)
        await writers.claim(1, "b", take=False)
    assert vars(writers) == vars(Writers())


async def test_who_does_not_follow_becomes_no_writer() -> None:
    """It may type where nobody else does, and keeps nobody from typing."""
    writers = Writers()
    await writers.claim(1, "a", take=False)
    await writers.claim(1, "b", take=False)
    assert vars(writers) == vars(Writers())


@pytest.mark.heavy
async def test_input_of_another_writer_is_refused(service: Service) -> None:
    """409 with nothing accepted; without a name, or with `take`, it is accepted; names and flags are checked."""
    job = await service.submit("cat", stdin={"stream": True})
    await service.running(job)
    path = f"/api/jobs/{job}/stdin"
    async with service.session.get(f"{service.url}/api/statuses/{job}/events?writer=a") as response:
        await anext(aiter(parse(response.content)))  # it is followed
        assert (await service.ask("POST", f"{path}?writer=a", data=b"1"))[0] == 204
        status, _, problem = await service.ask("POST", f"{path}?writer=b&offset=1", data=b"2")
        assert (status, problem["type"]) == (409, "/problems/input-taken")
        assert (await service.ask("POST", f"{path}?offset=1", data=b"3"))[0] == 204
        assert (await service.ask("POST", f"{path}?writer=b&take=true&offset=2", data=b"4"))[0] == 204
    for query in ("writer=", "writer=a%20b", "take=perhaps", "take=true"):
        assert (await service.ask("POST", f"{path}?{query}", data=b""))[0] == 400
    assert (await service.get(f"/api/statuses/{job}/events?writer=%2F"))[0] == 400
    await service.ask("POST", f"{path}?end=true", data=b"")
    assert (await service.result(job))["stdout"] == "134"
