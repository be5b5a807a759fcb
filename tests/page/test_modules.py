"""Single modules of the page, called in the browser."""

from typing import Any

import pytest

from shellrunner.cli.ui.formatting import format_size
from tests.support.service import Service

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_the_colours_of_the_two_streams_are_separate(service: Service, open_tab: Any) -> None:
    """Each stream keeps its colours after output of the other; a reset in stderr restores its base colour."""
    tab = await open_tab(service)
    base, reset = "\x1b[38;5;173m", "\x1b[0m"
    chunks = [
        ("stdout", "a\x1b[1;32mb"),
        ("stderr", "c\x1b[0md\x1b[31me\x1b[39mf"),
        ("stdout", "g\x1b[mh"),
    ]
    script = """const painter = new module.AnsiPainter({ only: '', showTimes: false });
        return given.map(([stream, text]) => painter.paint({ stream, text, time: '' }));"""
    assert await tab.call_module("terminal/ansi-painter.js", script, chunks) == [
        "a\x1b[1;32mb",
        f"{reset}{base}c{reset}{base}d\x1b[31me\x1b[39m{base}f",
        f"{reset}\x1b[1;32mg{reset}h",
    ]


async def test_the_buffer_is_bounded_and_its_chunks_keep_their_numbers(service: Service, open_tab: Any) -> None:
    """Of more chunks than its maximum the buffer keeps the last ones, under their original numbers."""
    tab = await open_tab(service)
    script = """const buffer = new module.OutputBuffer();
        for (let n = 0; n < given; n += 1) buffer.add({ stream: 'stdout', text: String(n), time: '' });
        return [buffer.start, buffer.end, buffer.at(buffer.start).text, buffer.at(buffer.end - 1).text];"""
    assert await tab.call_module("terminal/output-buffer.js", script, 250_000) == [
        150_000,
        250_000,
        "150000",
        "249999",
    ]


async def test_sizes_are_formatted_as_on_the_command_line(service: Service, open_tab: Any) -> None:
    """Sizes have the same units and the same rounding as the command line's."""
    sizes = [0, 1, 1023, 1024, 1075, 1280, 1792, 2**20 - 1, 2**20, 98_000_000, 5 * 2**30, 2**40, 3 * 2**50]
    tab = await open_tab(service)
    found = await tab.call_module("core/format.js", "return given.map(module.formatSize);", sizes)
    assert found == [format_size(each) for each in sizes]
