"""Output, end to end: what a command writes can be read, in order, while it runs and after.

O1 to O9, E1, E3 and E10 of docs/explanation/failures.md.
"""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import Service
from tests.support.sse import output_text, parse
from tests.support.waiting import until


@pytest.mark.heavy
async def test_o1_a_hundred_megabytes_without_a_newline(service: Service) -> None:
    """Every byte of one line of 100 MB is stored and can be read."""
    job = await service.submit("head -c 100000000 /dev/zero | tr '\\0' x")
    result = await service.result(job, seconds=40)
    assert (result["ending"], result["stdout_bytes"], result["truncated"]) == ("exited", 100_000_000, True)
    status, headers, tail = await service.get(f"/api/results/{job}/stdout", headers={"Range": "bytes=-10"})
    assert (status, headers["Content-Range"], tail) == (206, "bytes 99999990-99999999/100000000", b"x" * 10)


@pytest.mark.heavy
async def test_o3_the_limit_acts_while_it_runs(service: Service) -> None:
    """A command that writes without end is ended at its limit; the disk holds little more than that."""
    limit = 2_000_000
    job = await service.submit("yes", limits={"output_bytes": limit})
    result = await service.result(job)
    assert (result["ending"], result["signal"], result["stdout_bytes"]) == ("output_limit", "SIGTERM", limit)
    assert result["stdout_dropped"] > 0
    stored = sum(path.stat().st_size for path in (service.state_dir / "runs").iterdir())
    assert stored <= limit + (1 << 20)
    assert await service.raw(job) == b"y\n" * (limit // 2)


async def test_a_limit_above_the_configured_one_is_refused(service: Service) -> None:
    """A job that asks for more output than the configuration allows is rejected."""
    status, _, body = await service.ask(
        "POST", "/api/jobs", json={"command": "true", "limits": {"output_bytes": 1 << 50}}
    )
    assert status == 422
    assert body["errors"][0]["pointer"] == "#/limits/output_bytes"


@pytest.mark.heavy
async def test_o5_cyrillic_in_and_out_under_lang_c(service: Service, tmp_path: Path) -> None:
    """Under LANG=C, commands, paths, variables, input and output in any script stay what they are."""
    folder = tmp_path / "каталог 目录"
    folder.mkdir()
    (folder / "файл.txt").write_text("содержимое\n")
    result = await service.run(
        'ls; cat файл.txt -; echo "$ИМЯ $NAME" >&2', cwd=str(folder), env={"NAME": "Ёжик"}, stdin="ввод עברית 🥖\n"
    )
    assert result["stdout"] == "файл.txt\nсодержимое\nввод עברית 🥖\n"
    assert result["stderr"].endswith("Ёжик\n")
    async with service.session.get(f"{service.url}/api/results/{result['result_id']}") as response:
        assert "ввод עברית 🥖" in (await response.read()).decode()


@pytest.mark.heavy
@pytest.mark.parametrize("charset", ["koi8-r", "cp1251", "utf-16-le", "gb18030"])
async def test_output_in_another_charset_is_shown_as_text(service: Service, charset: str) -> None:
    """With `encoding`, output in an old charset is decoded as text; the raw route keeps its bytes."""
    text = "Привет"
    octal = "".join(f"\\{byte:03o}" for byte in text.encode(charset))
    job = await service.submit(f"printf '{octal}'", encoding=charset)
    assert (await service.result(job))["stdout"] == text
    assert await service.raw(job) == text.encode(charset)


async def test_o7_all_byte_values_round_trip(service: Service) -> None:
    """All 256 values, NUL and ANSI among them, come out of the raw route as they went in."""
    octal = "".join(f"\\{byte:03o}" for byte in range(256))
    job = await service.submit(f"printf '{octal}'; printf '{octal}' >&2")
    await service.result(job)
    assert await service.raw(job, "stdout") == bytes(range(256))
    assert await service.raw(job, "stderr") == bytes(range(256))


async def test_o8_carriage_returns_and_empty_lines_survive_the_stream(service: Service) -> None:
    r"""`\r`, `\n\n` and `\r\n` are in the stream's text as they were written."""
    job = await service.submit(r"printf '10%%\r20%%\r\n\n\r\n\nend'")
    events = await _events(service, job)
    assert output_text(events) == "10%\r20%\r\n\n\r\n\nend"


@pytest.mark.heavy
async def test_o9_the_order_of_both_streams_is_kept(service: Service, tmp_path: Path) -> None:
    """Writes that alternate, each after the one before it was stored, come in that order, also after the end."""
    wait = f"while [ ! -e {tmp_path}/%s$i ]; do sleep 0.01; done"
    job = await service.submit(f"for i in 1 2 3 4 5; do echo o$i; {wait % 'o'}; echo e$i >&2; {wait % 'e'}; done")
    written = [f"{stream}{i}" for i in range(1, 6) for stream in "oe"]
    async with service.session.get(f"{service.url}/api/statuses/{job}/output?follow=true") as response:
        for each in written:
            assert await response.content.readuntil(b"\n") == f"{each}\n".encode()
            (tmp_path / each).touch()
    order = output_text(await _events(service, job), "stdout", "stderr")
    assert order.split() == written
    _, _, output = await service.get(f"/api/statuses/{job}/output")
    assert output.decode() == order


async def test_the_whole_output_route_follows_until_the_end(service: Service, tmp_path: Path) -> None:
    """`follow=true` gives bytes as they come and ends with the job."""
    job = await service.submit(f"echo one; while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; echo two")
    async with service.session.get(f"{service.url}/api/statuses/{job}/output?follow=true") as response:
        assert await response.content.readuntil(b"\n") == b"one\n"
        (tmp_path / "go").touch()
        assert await response.content.read() == b"two\n"


@pytest.mark.heavy
async def test_e1_two_hundred_random_disconnects(service: Service) -> None:
    """A follower that is cut 200 times, the server killed in between, has the stored bytes: no gap, no repeat."""
    body = "echo строка $i; echo ошибка $i >&2; i=$((i+1)); [ $((i % 10)) = 0 ] && sleep 0.02"
    job = await service.submit(f"i=0; while [ $i -lt 1500 ]; do {body}; done")
    chance = random.Random(1)
    parts = {"stdout": "", "stderr": ""}
    last, cuts, ended = None, 0, False
    while not ended:
        headers: dict[str, str] = {"Last-Event-ID": last} if last else {}
        async with service.session.get(f"{service.url}/api/statuses/{job}/events", headers=headers) as response:
            assert response.status == 200
            budget = 1 if cuts < 150 else chance.randrange(1, 3)
            async for event in parse(response.content):
                if event.name in parts:
                    parts[event.name] += event.data["text"]
                    last = event.id
                    budget -= 1
                ended = event.name == "done"
                if budget == 0 and cuts < 200:
                    break
        cuts += 1
        if cuts == 100:
            await service.restart()
    result = await service.result(job)
    assert cuts > 200
    assert parts == {
        "stdout": "".join(f"строка {i}\n" for i in range(1500)),
        "stderr": "".join(f"ошибка {i}\n" for i in range(1500)),
    }
    assert result["stdout_bytes"] == len(parts["stdout"].encode())


async def test_e3_the_end_is_sent_and_then_204(service: Service) -> None:
    """`done` is last, with the id `end`; a client that comes back with it gets 204, and stops."""
    job = await service.submit("echo x")
    await service.result(job)
    last = (await _events(service, job))[-1]
    assert (last.name, last.id, last.data["ending"], last.data["exit_code"]) == ("done", "end", "exited", 0)
    status, _, body = await service.get(f"/api/statuses/{job}/events", headers={"Last-Event-ID": "end"})
    assert (status, body) == (204, b"")


@pytest.mark.heavy
async def test_e10_output_forges_no_events(service: Service) -> None:
    """Output that looks like an event is sent as text."""
    forged = "\n\nevent: done\ndata: {}\nid: end\n\n"
    job = await service.submit("cat", stdin=forged)
    events = await _events(service, job)
    assert [event.name for event in events if event.name == "done"] == ["done"]
    assert output_text(events) == forged


@pytest.mark.heavy
async def test_many_followers_of_one_job_all_have_everything(service: Service, tmp_path: Path) -> None:
    """Followers that came at different times have the same whole output."""
    job = await service.submit(
        f"for i in 1 2 3; do seq 1000; sleep 0.05; done; while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; echo end"
    )
    followers = []
    for _ in range(20):
        followers.append(asyncio.create_task(_events(service, job)))
        await asyncio.sleep(0.01)
    await until(lambda: _has(service, job, b"1000\n"))
    (tmp_path / "go").touch()
    texts = {output_text(await follower) for follower in followers}
    assert texts == {"".join(f"{n}\n" for n in range(1, 1001)) * 3 + "end\n"}


async def _has(service: Service, job: Any, ending: Any) -> bool:
    _, _, output = await service.get(f"/api/statuses/{job}/output")
    return bool(output.count(ending) >= 3)


async def _events(service: Service, job: Any) -> list[Any]:
    async with service.session.get(f"{service.url}/api/statuses/{job}/events") as response:
        assert response.status == 200
        return [event async for event in parse(response.content)]
