"""What the page's modules make of text, in the browser that they are for."""

import itertools
import random

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_events_are_read_however_they_are_cut(service, reading):
    """A stream of events, cut anywhere, its lines ended in any of three ways, gives the same events and ids."""
    dice = random.Random(5)
    cases = [cut_stream(dice) for _ in range(300)]
    reader = await reading(service)
    script = """return given.map(([pieces]) => {
        const heard = [];
        const parser = new module.Parser('', (...event) => heard.push(event));
        for (const piece of pieces) parser.take(piece);
        return [heard, parser.id];
    });"""
    found = await reader.call("sse.js", script, [[pieces] for pieces, _ in cases])
    assert found == [expected for _, expected in cases]


def cut_stream(dice):
    """A stream in pieces, and what it says: its events as [name, data, id], and the last id."""
    text, told, last = "", [], ""
    for _ in range(dice.randrange(6)):
        end = dice.choice(["\n", "\r\n", "\r"])
        name, data = dice.choice(["", "status", "stdout"]), dice.choice([None, '{"text":"é: 漢"}', "", "a\nb"])
        lines = [f"event: {name}"] if name else []
        if dice.random() < 0.5:
            last = str(dice.randrange(1000))
            lines.append(f"id:{last}")
        if dice.random() < 0.3:
            lines += [":", "retry: 2000", ": data: not this"]
        if data is not None:
            lines += [f"data: {line}" for line in data.split("\n")]
            told.append([name or "message", data, last])
        text += end.join([*lines, "", ""])
    # A comment, so that no CR is the last of all: it might be half of a CRLF.
    text += ":\n"
    cuts = sorted(dice.randrange(len(text) + 1) for _ in range(dice.randrange(8)))
    edges = [0, *cuts, len(text)]
    return [text[first:after] for first, after in itertools.pairwise(edges)], [told, last]


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
    assert await reader.call("paint.js", script, pieces) == [
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
    assert await reader.call("record.js", script, 250_000) == [150_000, 250_000, "150000", "249999"]
