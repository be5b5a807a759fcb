"""The page's SSE parser on the test vectors that it shares with the Python client's parser.

In Node.js where there is one, and in Chromium where the other tests of the page run: one of the two is
there on most machines.
"""

import asyncio
import base64
import itertools
import json
import random
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import Service

VECTORS = json.loads((Path(__file__).parents[1] / "support" / "sse_vectors.json").read_text("utf-8"))
MODULE = "core/sse.js"
# Takes `module` and `given`, a list of streams in chunks; returns the events and the last id of each.
PARSE = """given.map((chunks) => {
    const events = [];
    const parser = new module.SseParser("", (event, data, id) => events.push({ event, data, id }));
    for (const chunk of chunks) parser.feed(chunk);
    return { events, last_id: parser.lastId };
})"""
NODE = f"""
const {{ source, given }} = JSON.parse(require("fs").readFileSync(0, "utf8"));
import(`data:text/javascript;base64,${{source}}`).then((module) => console.log(JSON.stringify({PARSE})));
"""


async def parse_in_node(streams: Any) -> Any:
    """Return the events of each stream, from the module as Node.js runs it."""
    source = base64.b64encode((files("shellrunner") / "page" / MODULE).read_bytes()).decode()
    pipe = asyncio.subprocess.PIPE
    node = await asyncio.create_subprocess_exec("node", "-e", NODE, stdin=pipe, stdout=pipe)
    output, _ = await node.communicate(json.dumps({"source": source, "given": streams}).encode())
    return json.loads(output)


def check(parsed: Any, vectors: Any) -> None:
    """Compare stream by stream, so that a failure names the vectors that are wrong."""
    results = {vector["name"]: found for vector, found in zip(vectors, parsed, strict=True)}
    assert results == {each["name"]: {"events": each["events"], "last_id": each["last_id"]} for each in vectors}


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
async def test_node_parses_every_vector() -> None:
    """Each vector's chunks give exactly its events and its last id."""
    check(await parse_in_node([vector["chunks"] for vector in VECTORS]), VECTORS)


@pytest.mark.asyncio(loop_scope="session")
async def test_chromium_parses_every_vector(service: Service, open_tab: Any) -> None:
    """Each vector's chunks give exactly its events and its last id."""
    tab = await open_tab(service)
    parsed = await tab.call_module(MODULE, f"return {PARSE};", [vector["chunks"] for vector in VECTORS])
    check(parsed, VECTORS)


@pytest.mark.asyncio(loop_scope="session")
async def test_the_cuts_between_chunks_do_not_matter(service: Service, open_tab: Any) -> None:
    """All vectors, cut at random places, give the same events and last ids as uncut."""
    dice = random.Random(5)
    cut = [{**vector, "chunks": cut_anywhere("".join(vector["chunks"]), dice)} for vector in VECTORS * 10]
    tab = await open_tab(service)
    check(await tab.call_module(MODULE, f"return {PARSE};", [vector["chunks"] for vector in cut]), cut)


def cut_anywhere(text: Any, dice: Any) -> list[Any]:
    """Return the text in up to eight pieces, of which some may be empty."""
    cuts = sorted(dice.randrange(len(text) + 1) for _ in range(dice.randrange(8)))
    return [text[first:after] for first, after in itertools.pairwise([0, *cuts, len(text)])]
