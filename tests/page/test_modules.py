"""What the page's modules make of text, in the browser that they are for."""

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_colours_of_the_two_streams_are_kept_apart(service, reading):
    """Each stream goes on with its own colours after the other wrote; a reset of stderr leads back to its tint."""
    reader = await reading(service)
    tint, reset = "\x1b[38;5;173m", "\x1b[0m"
    pieces = [
        ("stdout", "a\x1b[1;32mb"),
        ("stderr", "c\x1b[0md\x1b[31me\x1b[39mf"),
        ("stdout", "g\x1b[mh"),
    ]
    script = """const painter = new module.Painter({ only: '', times: false });
        return given.map(([stream, text]) => painter.paint({ stream, text, time: '' }));"""
    assert await reader.call("terminal/ansi-painter.js", script, pieces) == [
        "a\x1b[1;32mb",
        f"{reset}{tint}c{reset}{tint}d\x1b[31me\x1b[39m{tint}f",
        f"{reset}\x1b[1;32mg{reset}h",
    ]


async def test_the_record_is_bounded_and_its_pieces_keep_their_numbers(service, reading):
    """Of more than it keeps only the last are there, each under the number that it always had."""
    reader = await reading(service)
    script = """const record = new module.Record();
        for (let n = 0; n < given; n += 1) record.add({ stream: 'stdout', text: String(n), time: '' });
        return [record.begin, record.end, record.at(record.begin).text, record.at(record.end - 1).text];"""
    assert await reader.call("terminal/output-buffer.js", script, 250_000) == [150_000, 250_000, "150000", "249999"]
