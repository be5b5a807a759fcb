"""Jobs that run on a terminal: typing, one writer, sizes; output that is wider than the page."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.support.selected_service import at_fixed_port
from tests.support.service import Service
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="session")

# Shows the size of its terminal, at first and whenever it changes.
SIZES = """
size() { printf 'size %s.\\n' "$(stty size)"; }
trap size WINCH
size
sleep 1000 &
while :; do wait; done
"""
# Shows what it reads, byte by byte.
KEYS = """
stty raw -echo isig
printf 'ready\\r\\n'
while :; do printf 'key%s.\\r\\n' "$(dd bs=1 count=1 2>/dev/null | od -An -tx1)"; done
"""
TTY = {"rows": 24, "columns": 100}
TYPEABLE: Any = {"tty": TTY, "stdin": {"stream": True}}


async def start_typing(tab: Any) -> None:
    """Click the button, and wait until what is typed goes to the job."""
    await tab.page.click("#type")
    await tab.wait_for("#terminal.typing")
    await tab.wait_for("#input-note", "Press Ctrl+\\ to stop")


async def end(service: Service, tab: Any, job: int) -> None:
    """Cancel a job that the tab shows."""
    await service.ask("POST", f"/api/jobs/{job}/cancel")
    await tab.wait_until_ended("cancelled")


async def shown_size(tab: Any) -> Any:
    """Return the size of the terminal that the page displays."""
    script = """() => {
        const { width } = document.querySelector('.xterm-screen').getBoundingClientRect();
        const letter = document.querySelector('.xterm-char-measure-element').getBoundingClientRect().width / 32;
        return { rows: document.querySelectorAll('.xterm-rows > div').length, columns: Math.round(width / letter) };
    }"""
    return await tab.page.evaluate(script)


async def test_keys_are_typed_into_a_terminal_job(service: Service, open_tab: Any) -> None:
    """Keys reach the command in order, also those that the page and the browser use; Ctrl+\\ gives them back."""
    job = await service.submit(KEYS, **TYPEABLE)
    tab = await open_tab(service, f"#job={job}")
    await tab.wait_for_output("ready")
    await start_typing(tab)
    for key, code in {
        "x": "78",
        "T": "54",
        "Tab": "09",
        "Escape": "1b",
        "Enter": "0d",
        "ArrowUp": "1b",
        "ä": "c3",
    }.items():
        await (tab.page.keyboard.insert_text(key) if key == "ä" else tab.page.keyboard.press(key))
        await tab.wait_for_output(f"key {code}.")
    await tab.wait_for_output("key a4.")
    await tab.page.keyboard.press("Control+\\")
    await tab.until("() => !terminal.classList.contains('typing')")
    assert await tab.page.evaluate("document.activeElement.id") == "type"
    await tab.page.keyboard.press("i")
    await tab.wait_for("#terminal.typing")
    await tab.page.keyboard.press("z")
    await tab.wait_for_output("key 7a.")
    await end(service, tab, job)
    assert "key 1c." not in await tab.copy_output()
    assert await tab.page.is_hidden("#type")
    assert await tab.page.is_hidden("#input-bar")


async def test_only_who_types_changes_the_size(service: Service, open_tab: Any) -> None:
    """Who watches sees the job's rows and columns; who types gives the job those of the panel."""
    job = await service.submit(SIZES, **TYPEABLE)
    tab = await open_tab(service, f"#job={job}")
    await tab.wait_for_output("size 24 100.")
    assert await shown_size(tab) == TTY
    await tab.page.set_viewport_size({"width": 600, "height": 500})
    assert await shown_size(tab) == TTY
    await tab.page.set_viewport_size({"width": 1280, "height": 800})
    await start_typing(tab)
    await until(lambda: _has_size(service, tab, job))
    wide = await shown_size(tab)
    await tab.page.set_viewport_size({"width": 600, "height": 700})
    await until(lambda: _has_size(service, tab, job, other_than=wide))
    narrow = await shown_size(tab)
    await tab.wait_for_output(f"size {narrow['rows']} {narrow['columns']}.")
    await tab.page.keyboard.press("Control+\\")
    await service.ask("POST", f"/api/jobs/{job}/tty", json={"rows": 30, "columns": 90})
    await tab.wait_for_output("size 30 90.")
    assert await shown_size(tab) == {"rows": 30, "columns": 90}
    await end(service, tab, job)


async def _has_size(service: Service, tab: Any, job: int, other_than: Any = TTY) -> bool:
    size = (await service.status(job))["tty"]
    return bool(size == await shown_size(tab) != other_than)


async def test_one_of_two_pages_types(service: Service, open_tab: Any) -> None:
    """A page does not type while another does, unless it takes over, which the other one notices."""
    job = await service.submit(KEYS, **TYPEABLE)
    first, second = [await open_tab(service, f"#job={job}") for _ in range(2)]
    await first.wait_for_output("ready")
    await start_typing(first)
    await second.page.click("#type")
    await second.wait_for("#input-note", "Another terminal is typing into this job")
    assert await second.page.locator("#terminal.typing").count() == 0
    await second.page.click("#input-take")
    await second.wait_for("#terminal.typing")
    await second.page.keyboard.press("b")
    await second.wait_for_output("key 62.")
    await first.page.keyboard.press("a")
    await first.wait_for("#input-note", "Another terminal is typing into this job")
    await second.page.keyboard.press("Control+\\")
    await until(lambda: _types(first))
    await end(service, first, job)
    assert "key 61." not in await first.copy_output()


async def _types(tab: Any) -> bool:
    """Try to type; return whether the page does."""
    if await tab.page.get_attribute("#type", "aria-pressed") == "false":
        await tab.page.click("#type")
    return bool(await tab.page.locator("#terminal.typing").count())


async def test_no_key_is_lost_or_doubled_when_the_server_is_killed(tmp_path: Path, open_tab: Any) -> None:
    """What is typed while the server is down reaches the command once, in order, after a restart."""
    async with at_fixed_port(tmp_path / "state") as own:
        job = await own.submit("stty raw -echo; echo ready; head -c 300 | md5sum", **TYPEABLE)
        tab = await open_tab(own, f"#job={job}", errors=[".*"])
        await tab.wait_for_output("ready")
        await start_typing(tab)
        await tab.page.keyboard.type("a" * 100)
        await own.kill()
        await tab.page.keyboard.type("b" * 100)
        await own.start()
        await tab.page.keyboard.type("c" * 100)
        await tab.wait_until_ended("exit 0")
        expected = hashlib.md5(b"a" * 100 + b"b" * 100 + b"c" * 100, usedforsecurity=False).hexdigest()
        await tab.wait_for_output(expected)


async def test_a_replay_asks_the_terminal_nothing(service: Service, open_tab: Any) -> None:
    """What output asks the terminal is answered once, while it is typed into, and not when displayed again."""
    ask = "printf '\\033[6n\\033[c'"
    command = f"stty raw -echo; {ask}; echo ready; head -c 1 >/dev/null; {ask}; printf live; cat | od -An -tx1 -v -w1"
    job = await service.submit(command, **TYPEABLE)
    tab = await open_tab(service, f"#job={job}")
    await tab.wait_for_output("ready")
    await start_typing(tab)
    await tab.page.click("#times")
    await tab.page.click("#times")
    await tab.page.click("#terminal .xterm-screen")
    await tab.page.keyboard.press("x")
    await tab.wait_for_output("63")
    await tab.page.click("#times")
    await tab.page.click("#times")
    await tab.page.click("#terminal .xterm-screen")
    await tab.page.keyboard.press("q")
    await tab.wait_for_output("71")
    await end(service, tab, job)
    answered = (await service.raw(job)).decode().split("live")[1].split()
    assert [answered.count(code) for code in ("1b", "52", "63", "78")] == [2, 1, 1, 0]


async def test_progress_bars_are_not_torn_on_a_phone(service: Service, open_tab: Any) -> None:
    """Output that draws over its own lines has at least 80 columns; lines that are only long are wrapped."""
    line = "x" * 78
    drawn = await service.run(f"for n in 1 2 3; do printf '\\r{line}%s' $n; done")
    plain = await service.run(f"echo {line}")
    tab = await open_tab(service, f"#job={drawn['job_id']}", size=(360, 740))
    await tab.wait_for_output(f"{line}3")
    await tab.until("() => document.querySelectorAll('.xterm-rows > div')[1].textContent.trim() === ''")
    assert (await shown_size(tab))["columns"] == 80
    await tab.page.evaluate(f"location.hash = 'job={plain['job_id']}'")
    await tab.wait_until_ended("exit 0")
    await tab.until("() => document.querySelectorAll('.xterm-rows > div')[1].textContent.trim() !== ''")
    assert (await shown_size(tab))["columns"] < 60


async def test_only_a_job_with_an_input_stream_and_a_terminal_is_typed_into(service: Service, open_tab: Any) -> None:
    """There is no button for a job that takes no input, or has no terminal."""
    for spec in ({"tty": TTY}, {"stdin": {"stream": True}}):
        job = await service.submit("echo here; sleep 1000", **spec)
        tab = await open_tab(service, f"#job={job}")
        await tab.wait_for_output("here")
        assert await tab.page.is_hidden("#type")
        await tab.page.keyboard.press("i")
        await end(service, tab, job)
        assert await tab.page.locator("#terminal.typing").count() == 0
