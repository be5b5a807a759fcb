"""`run -t` and `attach` across kills of the server, and with real programs in tmux."""

import re
import shutil
from pathlib import Path

import pytest

from tests.support import prefork, tmux
from tests.support.command_line import Typist
from tests.support.service import Service
from tests.support.waiting import until


@pytest.mark.heavy
async def test_a_kill_of_the_server_loses_and_doubles_no_key(service: Service, tmp_path: Path) -> None:
    """What is typed while no server is there arrives once; the terminal says what is the matter, and goes on."""
    service.program[-1] = service.url.rpartition(":")[2]
    typist = Typist(tmp_path, SHELLRUNNER_URL=service.url)
    async with typist.at_terminal(
        "run", "-t", "stty -echo; echo ready; while read x; do echo got $x; done"
    ) as screen:
        await screen.shows(b"ready\r\n")
        await service.kill()
        screen.types(b"one\r")
        await screen.shows(b"Connection refused")
        await service.start()
        await screen.shows(b"got one\r\n")
        await service.restart()
        screen.types(b"two\r")
        await screen.shows(b"got two\r\n")
        screen.types(b"\x04")
        assert await screen.code() == 0
        assert re.findall(rb"got (\w*)", screen.shown) == [b"one", b"two"]


SIZES = ((24, 80), (12, 50), (20, 200))  # rows and columns
PROGRAMS = {"vim": ("vim -u NONE -N {file}", (":q!", "Enter")), "less": ("less -S {file}", ("q",))}


KILLED_AT = {"vim": SIZES[1], "less": SIZES[2]}  # the size at which the service is killed while one is attached


@pytest.mark.heavy
@pytest.mark.skipif(not tmux.IS_INSTALLED, reason="needs tmux")
@pytest.mark.parametrize("name", PROGRAMS)
async def test_programs_look_as_without_it(service: Service, tmp_path: Path, name: str) -> None:
    """In tmux, a program shows the same in a job as without one: at first, after a kill -9, and attached again."""
    if shutil.which(name) is None:
        pytest.skip(f"needs {name}")
    service.program[-1] = service.url.rpartition(":")[2]
    (tmp_path / "file").write_text("".join(f"line {number} {'слово ' * 30}\n" for number in range(1, 301)))
    pattern, leaving = PROGRAMS[name]
    program = pattern.format(file=tmp_path / "file")
    environment = {"SHELLRUNNER_URL": service.url, "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    rows, columns = SIZES[0]
    async with tmux.window(tmp_path, rows=rows, columns=columns, environment=environment) as window:

        async def look(command: str, rows: int) -> list[str]:
            await window.types(command, "Enter")
            is_drawn = lambda shown: all(text(shown, rows)) and shown.startswith("line 1 ")  # noqa: E731
            return text(await window.shows(is_drawn, "the program has drawn all of the screen"), rows)

        expected = {}
        for size in SIZES:
            await window.resize(*size)
            expected[size] = await look(program, size[0])
            await window.types(*leaving)
            await window.shows(lambda shown: shown.rstrip().endswith("$"), "the shell is back")
        await window.resize(*SIZES[0])
        assert await look(f"{prefork.SCRIPT[0]} run -t {program!r}", rows) == expected[SIZES[0]]
        await service.restart()
        await window.types("j")
        for size in SIZES[1:]:
            await window.types("C-\\")
            await window.shows(lambda shown: "continues" in shown, "it has detached")
            await window.resize(*size)
            await window.types(f"{prefork.SCRIPT[0]} attach 1", "Enter")
            await window.types("gg")
            await window.shows(lambda shown: text(shown, size[0]) == expected[size], "the same")  # noqa: B023
            if size == KILLED_AT[name]:
                await service.restart()
                await window.types("j", "g", "g")
                await window.shows(lambda shown: text(shown, size[0]) == expected[size], "the same again")  # noqa: B023

        async def has_ended() -> bool:
            if "$ " in await window.screen():
                return True
            await window.types(*leaving)  # again: less loses a key that comes just when its window changes its size
            return False

        await until(has_ended)
    assert (await service.result(1))["exit_code"] == 0


def text(shown: str, rows: int) -> list[str]:
    """Return the rows without the last one, whose message is gone once the screen is drawn again."""
    return [*shown.splitlines(), *[""] * rows][: rows - 1]
