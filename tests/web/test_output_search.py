"""Find a text in a job's output and jump to its lines: against plain search, in every charset, page by page."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shellrunner.charsets import CHARSETS
from shellrunner.web.feeds import line_index
from shellrunner.web.handlers import output_search
from shellrunner.wire import text_search
from shellrunner.wire.text import Decoder
from shellrunner.wire.text_search import TextSearch, count_lines
from tests.support.attack import bearer
from tests.support.service import Service
from tests.support.site import Site, serving
from tests.support.tokens import hash_of, secret_of

WORDS = st.text(st.sampled_from("aAbBкКёß\n €"), min_size=1, max_size=4)
OUTPUT = st.text(st.sampled_from("aAbBкКёЁß\n €"), max_size=60)


def expected(text: str, whole: str, *, match_case: bool) -> list[int]:
    """Return where a text is in another one, in characters; each of these folds to one character."""
    one, other = (text, whole) if match_case else (fold(text), fold(whole))
    found, at = [], 0
    while (at := other.find(one, at)) >= 0:
        found.append(at)
        at += len(one)
    return found


def fold(text: str) -> str:
    return "".join(each.lower() if len(each.lower()) == 1 else each for each in text)


CHARSETS_OF_EACH_KIND = st.sampled_from(["utf-8", "cp1251", "koi8-r", "utf-16-le", "gb18030", "gbk"])


@given(
    text=WORDS, whole=OUTPUT, charset=CHARSETS_OF_EACH_KIND, match_case=st.booleans(), cut=st.integers(0, 100)
)  # fmt: skip
@settings(deadline=None, max_examples=100)
def test_a_search_of_bytes_is_one_of_text(text: str, whole: str, charset: str, *, match_case: bool, cut: int) -> None:
    """What is found in the bytes, in whatever parts, is what is found in the text, and begins where that does."""
    whole = whole.encode(charset, "ignore").decode(charset)
    data = whole.encode(charset)
    wanted = [len(whole[:at].encode(charset)) for at in expected(text, whole, match_case=match_case)]
    search = TextSearch(text, charset, match_case=match_case)
    assert [span.begin for span in search.find(data, 0, len(data), offset=0)] == wanted
    cut = min(cut, len(data)) // 2 * 2
    first = [span.begin for span in search.find(data, 0, cut, offset=0)]
    assert first == [at for at in wanted if at < cut]
    assert count_lines(data, 0, charset) == whole.count("\n")


@pytest.mark.parametrize("charset", sorted(CHARSETS))
def test_every_charset(charset: str) -> None:
    """An ASCII text is found in output of each charset, in any case or exactly, and its lines are counted."""
    data = "One\ntwo ERROR three\nerror\n".encode(charset)
    found = list(TextSearch("error", charset).find(data, 0, len(data), offset=0))
    assert [data[begin:end].decode(charset) for begin, end in found] == ["ERROR", "error"]
    (exact,) = TextSearch("error", charset, match_case=True).find(data, 0, len(data), offset=0)
    assert data[exact.begin :].decode(charset) == "error\n"
    assert count_lines(data, 0, charset) == 3


def test_a_match_within_two_characters_is_none() -> None:
    """In a charset of several bytes, bytes that are the end of one character and the beginning of the next differ."""
    data = "дд\n".encode("gbk")
    wrong = data[1:3].decode("gbk")
    assert data.find(wrong.encode("gbk")) == 1
    assert list(TextSearch(wrong, "gbk").find(data, 0, len(data), offset=0)) == []


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few hundred bytes be many blocks."""
    for module in (line_index, output_search):
        monkeypatch.setattr(module, "BLOCK_SIZE", 64)
    monkeypatch.setattr(line_index, "SLICE_SIZE", 16)
    monkeypatch.setattr(text_search, "_MAX_SLICE", 16)


OUT = "".join(f"line {number}: привет, Мир {number * 7 % 31}\n" for number in range(1, 120)).encode() + b"the end"


async def pages(site: Site, path: str) -> Iterator[dict[str, Any]]:
    """Return the matches of all pages."""
    found: list[dict[str, Any]] = []
    link: str | None = path
    while link is not None:
        answer = await site.get(link)
        assert answer.status == 200, answer.body
        assert answer.json["size"] >= answer.json["searched"]
        found += answer.json["matches"]
        link = answer.json["next"]
    return iter(found)


@pytest.mark.heavy
@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("limit", [7, 1000])
@pytest.mark.parametrize("text", ["мир 7", "\nline", "e", "the end", "absent", "Мир 3\nline"])
async def test_all_of_it_is_found(site: Site, text: str, limit: int) -> None:
    """Page by page, from either end or the middle: exactly what a plain search finds, with lines and surroundings."""
    job = await site.done(OUT)
    path = f"/api/statuses/{job}/output?find={text.replace(chr(10), '%0A').replace(' ', '+')}&limit={limit}"
    wanted = [found.span() for found in re.finditer(re.escape(text), OUT.decode(), re.IGNORECASE)]
    whole = OUT.decode()
    spans = [(len(whole[:begin].encode()), len(whole[:end].encode())) for begin, end in wanted]
    matches = list(await pages(site, path))
    assert [(match["position"], match["position"] + match["length"]) for match in matches] == spans
    for match, (begin, end) in zip(matches, wanted, strict=True):
        assert match["line"] == whole.count("\n", 0, begin) + 1
        assert match["event_id"] == str(match["position"])
        assert match["text"] == whole[begin:end]
        assert match["before"] == whole[:begin].rpartition("\n")[2]
        assert match["after"] == whole[end:].partition("\n")[0]
    backward = list(await pages(site, f"{path}&backward"))
    assert backward == matches[::-1]
    middle = len(OUT) // 2 // 2 * 2
    later = [match for match in matches if match["position"] >= middle]
    assert list(await pages(site, f"{path}&from={middle}")) == later
    earlier = [match for match in matches if match["position"] < middle]
    assert list(await pages(site, f"{path}&from={middle}&backward"))[::-1] == earlier


@pytest.mark.usefixtures("small_blocks")
async def test_lines(site: Site) -> None:
    """Every line is where it is, by its number and by any byte in it; beyond the last line it is that one."""
    job = await site.done(OUT)
    path = f"/api/statuses/{job}/output/line"
    begins = [0, *(found.end() for found in re.finditer(b"\n", OUT))]
    for number, begin in [*enumerate(begins, 1)][::-7]:
        document = {
            "line": number, "position": begin, "event_id": str(begin), "lines": len(begins), "size": len(OUT)
        }  # fmt: skip
        assert (await site.get(f"{path}?number={number}")).json == document
        assert (await site.get(f"{path}?from={begin}")).json == document
        if number < len(begins):
            assert (await site.get(f"{path}?from={begins[number] - 1}")).json == document
    last = (await site.get(path)).json
    assert (last["line"], last["position"]) == (len(begins), begins[-1])
    assert (await site.get(f"{path}?number=99999")).json == last
    assert (await site.get(f"{path}?from={len(OUT)}")).json == last
    text = await site.get(f"/api/statuses/{job}/output?from={last['position']}")
    assert text.body == b"the end"


@pytest.mark.parametrize(
    ("output", "lines", "position"), [(b"", 0, 0), (b"\n", 1, 0), (b"a\nb\n", 2, 2), (b"a\nb", 2, 2)]
)
async def test_the_last_line(site: Site, output: bytes, lines: int, position: int) -> None:
    """A newline at the very end begins no line."""
    job = await site.done(output)
    answer = (await site.get(f"/api/statuses/{job}/output/line")).json
    assert (answer["lines"], answer["position"], answer["line"]) == (lines, position, max(lines, 1))
    assert list(await pages(site, f"/api/statuses/{job}/output?find=x")) == []


async def test_one_stream(site: Site) -> None:
    """With `stream` the positions are those of its bytes, and of no event."""
    job = await site.done(b"out one\nout two\n", b"err one\n")
    (match,) = await pages(site, f"/api/statuses/{job}/output?find=ONE&stream=stderr")
    assert (match["position"], match["line"], match["event_id"]) == (4, 1, None)
    answer = (await site.get(f"/api/statuses/{job}/output/line?stream=stdout&number=2")).json
    assert (answer["position"], answer["lines"], answer["event_id"]) == (8, 2, None)
    assert len(list(await pages(site, f"/api/statuses/{job}/output?find=one"))) == 2


@pytest.mark.sqlite(reason="another node has what was just written a moment later")
@pytest.mark.usefixtures("small_blocks")
async def test_what_is_written_meanwhile_is_found(site: Site) -> None:
    """A search of a running job goes on from `searched`, and finds what was completed since; lines count on."""
    job = await site.submit()
    runner = site.simulated_runner()
    await runner.claim()
    runner.write(b"one\n" * 50 + b"nee")
    path = f"/api/statuses/{job}/output"
    first = (await site.get(f"{path}?find=needle")).json
    assert (first["matches"], first["next"]) == ([], None)
    assert (await site.get(f"{path}/line")).json["lines"] == 51
    runner.write(b"dle\nNEEDLE\n")
    found = (await site.get(f"{path}?find=needle&from={first['searched']}")).json["matches"]
    assert [(match["position"], match["line"]) for match in found] == [(200, 51), (207, 52)]
    assert (await site.get(f"{path}/line")).json["lines"] == 52
    await runner.finish()
    assert (await site.get(f"{path}?find=needle")).json["searched"] == 214


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("output?find=", "find"),
        (f"output?find={'x' * 1001}", "find"),
        ("output?find=x&follow", "follow"),
        ("output?find=x&tail=3", "tail"),
        ("output?find=x&from=5", "from"),
        ("output?find=x&limit=0", "limit"),
        ("output?find=x&match_case=maybe", "match_case"),
        ("output?match_case", "match_case"),
        ("output?limit=5", "limit"),
        ("output?backward", "backward"),
        ("output/line?number=0", "number"),
        ("output/line?number=1&from=1", "number"),
        ("output/line?from=5", "from"),
        ("output/line?find=x", "find"),
    ],
)
async def test_bad_parameters(site: Site, query: str, parameter: str) -> None:
    """What makes no sense is 400 and names the parameter."""
    job = await site.done(b"four")
    answer = await site.get(f"/api/statuses/{job}/{query}")
    assert (answer.status, answer.json["parameter"]) == (400, parameter)


async def test_negotiation_and_headers(site: Site) -> None:
    """A search is JSON, whichever of the route's content types is accepted, and has the route's headers."""
    job = await site.done(b"four")
    for accept in ("application/json", "text/plain", "*/*"):
        answer = await site.get(f"/api/statuses/{job}/output?find=our", headers={"Accept": accept})
        assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json; charset=utf-8")
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Accel-Buffering"] == "no"
    assert (await site.get(f"/api/statuses/{job}/output", headers={"Accept": "image/png"})).status == 406


async def test_a_deleted_result_is_gone(site: Site) -> None:
    """Without its result, a job has no output to search, and no lines; an unknown job is 404."""
    job = await site.done(b"four")
    await site.ask("DELETE", f"/api/results/{job}")
    for path in ("output?find=x", "output/line"):
        assert (await site.get(f"/api/statuses/{job}/{path}")).status == 410
        assert (await site.get(f"/api/statuses/99/{path}")).status == 404


async def test_who_may(tmp_path: Path) -> None:
    """Searching output needs the scope `read`, as reading it does."""
    scopes = {"read": ["read"], "run": ["run", "admin"]}
    tokens = [{"name": name, "hash": hash_of(name), "scopes": held} for name, held in scopes.items()]
    async with serving(tmp_path, auth={"tokens": tokens, "tokens_file": None}) as site:
        for who, status in (("read", 404), ("run", 403)):
            sent = dict([bearer(secret_of(who)).split(": ", 1)])
            for path in ("output?find=x", "output/line"):
                assert (await site.get(f"/api/statuses/1/{path}", headers=sent)).status == status


@pytest.mark.usefixtures("small_blocks")
async def test_a_long_search_answers_before_it_is_over(site: Site) -> None:
    """A page ends when its time is over, with what was found by then and where to go on; nothing is left out."""
    job = await site.done(OUT)
    with mock.patch.object(output_search, "_MAX_SECONDS", 1e-9):
        first = (await site.get(f"/api/statuses/{job}/output?find=the+end")).json
        assert first["matches"] == []
        assert 0 < first["searched"] < len(OUT) // 2
        (match,) = await pages(site, f"/api/statuses/{job}/output?find=the+end")
    assert match["position"] == len(OUT) - 7


@pytest.mark.heavy
@pytest.mark.parametrize("backward", ["", "&backward"])
async def test_a_search_that_compares_much_goes_in_small_steps(site: Site, backward: str) -> None:
    """Output that nearly has the text at every place is searched in steps, between which others have their turn."""
    text, output = "а" * 999 + "б", "а" * 15_000 + "б"
    job = await site.done(output.encode())
    path = f"/api/statuses/{job}/output?find={quote(text)}{backward}"
    with mock.patch.multiple(output_search, _MAX_SECONDS=0, _MAX_BLOCK_SECONDS=-1):
        first = (await site.get(path)).json
    step = len(output.encode()) - first["searched"] if backward else first["searched"]
    assert 0 < step * len(text) < 5_000_000
    (match,) = await pages(site, path)
    assert match["position"] == 2 * (len(output) - len(text))


def test_each_byte_is_decoded_once() -> None:
    """One pass over the output says whether characters begin where a text was found, in however many places."""
    data = b"\x81a" * 5_000 + b" a"
    with mock.patch.object(Decoder, "feed", autospec=True, side_effect=Decoder.feed) as feed:
        assert [span.begin for span in TextSearch("a", "gbk").find(data, 0, len(data), offset=0)] == [len(data) - 1]
    assert sum(len(call.args[1]) for call in feed.call_args_list) <= len(data)


@pytest.mark.heavy
async def test_a_large_output_of_a_real_command(service: Service) -> None:
    """In 27 MB of a real command, over two attempts, the beginning, the middle and the end are found and reached."""
    command = "seq 1000000; echo middle >&2; seq 1000000; exit 1"
    job = await service.submit(command, merge_stderr=True, retries={"max": 1, "delay": 0})
    result = await service.result(job)
    assert result["attempt"] == 2
    lines, found, link = 2 * 1_000_000 + 1, [], f"/api/statuses/{job}/output?find=middle"
    while link:  # on a busy machine a search answers before it has read all of it
        _, _, page = await service.get(link)
        found += [match["line"] for match in page["matches"]]
        link = page["next"]
    assert found == [1_000_001, lines + 1_000_001]
    _, _, last = await service.get(f"/api/statuses/{job}/output?find=999999&backward=true&limit=1")
    assert (last["matches"][0]["line"], last["matches"][0]["before"]) == (2 * lines - 1, "")
    for number, text in ((1_500_000, b"499999\n"), (lines + 1, b"1\n2\n"), (2 * lines, b"1000000\n")):
        _, _, line = await service.get(f"/api/statuses/{job}/output/line?number={number}")
        assert line["lines"] == 2 * lines
        _, _, rest = await service.get(f"/api/statuses/{job}/output?from={line['position']}")
        assert rest.startswith(text)
    answers = await asyncio.gather(*(service.get(f"/api/statuses/{job}/output?find=77&limit=1") for _ in range(8)))
    assert {answer[2]["matches"][0]["position"] for answer in answers} == {
        len("".join(f"{n}\n" for n in range(1, 77)))
    }
