"""The wire: output to events and back, wherever it is cut; JSON, charsets, excerpts."""

import codecs
import encodings
import json
import sys
from base64 import b64decode
from dataclasses import dataclass
from json.encoder import encode_basestring

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shellrunner.charsets import CHARSETS
from shellrunner.errors import MalformedJson
from shellrunner.model import JobSpec, Stream
from shellrunner.wire import json_codec, text
from shellrunner.wire.json_codec import encode
from shellrunner.wire.sse import MAX_EVENT_SIZE, Base64Framer, Framer, StreamCursor, TextFramer, event


@dataclass
class Piece:
    position: int
    stream: Stream
    time: int
    data: bytes


# Bytes as they are, and text that has characters of every length, cut without regard to them.
_TEXT = st.text(st.sampled_from("aя漢🦆\n\r\0\x1b\x04 \u2028\u0085é"), max_size=12)


@st.composite
def outputs(draw: st.DrawFn) -> tuple[str, list[Piece]]:
    charset = draw(st.sampled_from(sorted(CHARSETS)))
    data = st.binary(max_size=6) | _TEXT.map(lambda text: text.encode(charset, "replace"))
    whole = {stream: b"".join(draw(st.lists(data, max_size=4))) for stream in Stream}
    pieces, position, time = [], 0, 1_700_000_000_000
    while any(whole.values()):
        stream = draw(st.sampled_from([stream for stream in Stream if whole[stream]]))
        size = draw(st.integers(1, len(whole[stream])))
        time += draw(st.sampled_from([0, 5, 40, 100]))
        pieces.append(Piece(position, stream, time, whole[stream][:size]))
        whole[stream] = whole[stream][size:]
        position += size
    return charset, pieces


def since(pieces: list[Piece], position: int) -> list[Piece]:
    """Return the output from a position on."""
    left = []
    for piece in pieces:
        skip = max(0, position - piece.position)
        if skip < len(piece.data):
            left.append(Piece(piece.position + skip, piece.stream, piece.time, piece.data[skip:]))
    return left


def joined(pieces: list[Piece], stream: Stream) -> bytes:
    return b"".join(piece.data for piece in pieces if piece.stream is stream)


def resume(charset: str | None, pieces: list[Piece], cursor: StreamCursor) -> Framer:
    """Return a new framer, as a server makes it that knows only the output."""
    framer: Framer = TextFramer(charset, cursor.position) if charset else Base64Framer(cursor.position)
    before = [Piece(p.position, p.stream, p.time, p.data[: max(0, cursor.position - p.position)]) for p in pieces]
    for stream in Stream:
        if held := cursor.held(stream):
            assert framer.resume(stream, joined(before, stream)[-held:])
    return framer


def read(events: bytes) -> list[tuple[str, str, dict[str, str]]]:
    """Parse the name, id and data of each event as the HTML standard defines."""
    found = []
    for block in events.decode().replace("\r\n", "\n").replace("\r", "\n").split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        assert list(fields) == ["event", "id", "data"]
        found.append((fields["event"], fields["id"], json.loads(fields["data"])))
    return found


@pytest.mark.heavy
@given(output=outputs(), data=st.data())
def test_events_survive_any_cut(output: tuple[str, list[Piece]], data: st.DataObject) -> None:
    """O6, E1: over any disconnects, the texts of a stream join to its output decoded as a whole."""
    charset, pieces = output
    cursor, decoded = StreamCursor(), dict.fromkeys(Stream, "")
    while since(pieces, cursor.position) or cursor.stdout or cursor.stderr:
        framer = resume(charset, pieces, cursor)
        following = since(pieces, cursor.position)
        count = data.draw(st.integers(0, len(following)))
        events = framer.events(following[:count]) + (framer.flush(0) if count == len(following) else b"")
        taken = read(events)[: data.draw(st.integers(0, 3))]  # the reader is cut after so many events
        for name, event_id, content in taken:
            decoded[Stream(name)] += content["text"]
            cursor = StreamCursor.parse(event_id)
        if not events and count == len(following):
            break  # what was left completes no character and is no beginning of one
    for stream in Stream:
        assert decoded[stream] == joined(pieces, stream).decode(charset, "replace")


@pytest.mark.heavy
@given(output=outputs(), data=st.data())
def test_base64_survives_any_cut(output: tuple[str, list[Piece]], data: st.DataObject) -> None:
    """Over any disconnects, base64 events join to the exact bytes, and their ids hold nothing back."""
    _, pieces = output
    cursor, decoded = StreamCursor(), dict.fromkeys(Stream, b"")
    while following := since(pieces, cursor.position):
        for name, event_id, content in read(resume(None, pieces, cursor).events(following))[
            : data.draw(st.integers(1, 3))
        ]:
            decoded[Stream(name)] += b64decode(content["base64"])
            cursor = StreamCursor.parse(event_id)
            assert (cursor.stdout, cursor.stderr) == (0, 0)
    assert decoded == {stream: joined(pieces, stream) for stream in Stream}


def test_events_coalesce() -> None:
    """Output of one stream within 50 ms is one event; a later piece, or one of the other stream, begins another."""
    times = [(Stream.STDOUT, 0), (Stream.STDOUT, 50), (Stream.STDOUT, 51), (Stream.STDERR, 51), (Stream.STDOUT, 52)]
    pieces = [Piece(number, stream, time, b"x") for number, (stream, time) in enumerate(times)]
    events = read(TextFramer("utf-8", 0).events(pieces))
    assert [(name, event_id, content["text"]) for name, event_id, content in events] == [
        ("stdout", "2", "xx"),
        ("stdout", "3", "x"),
        ("stderr", "4", "x"),
        ("stdout", "5", "x"),
    ]


def test_an_event_has_a_limited_size() -> None:
    """However much comes at once, an event has at most `MAX_EVENT_SIZE` bytes, and its id is where they end."""
    written = "я".encode() * MAX_EVENT_SIZE + b"!"
    events = read(TextFramer("utf-8", 0).events([Piece(0, Stream.STDOUT, 0, b"-" + written)]))
    assert "".join(content["text"] for _, _, content in events) == "-" + written.decode()
    assert [event_id for _, event_id, _ in events] == ["65536.1.0", "131072.1.0", "131074"]


@pytest.mark.heavy
def test_text_is_quoted_as_the_standard_library_does_it() -> None:
    """Every code point is quoted as `json` quotes it, whatever stands beside it; a lone surrogate becomes `?`."""
    surrogates = range(0xD800, 0xE000)
    points = [chr(point) for point in range(sys.maxunicode + 1) if point not in surrogates]
    texts = ["".join(points), "".join(reversed(points)), *("".join(points[at::1009]) for at in range(0, 1009, 97))]
    texts += [f"{'a' * length}{point}" for point in map(chr, range(0x180)) for length in range(33)]
    for each in texts:
        assert encode(each) == encode_basestring(each).encode()
    assert encode("a" + "".join(map(chr, surrogates))) == b'"a' + b"?" * len(surrogates) + b'"'


def test_a_split_character_comes_whole() -> None:
    """O6: a character that the other stream cuts in two is sent whole, and the id between has what is held back."""
    pieces = [
        Piece(0, Stream.STDOUT, 0, b"\xd1"),
        Piece(1, Stream.STDERR, 0, b"!"),
        Piece(2, Stream.STDOUT, 0, b"\x8f"),
    ]
    events = read(TextFramer("utf-8", 0).events(pieces))
    assert [(name, event_id, content["text"]) for name, event_id, content in events] == [
        ("stderr", "2.1.0", "!"),
        ("stdout", "3", "я"),
    ]


@pytest.mark.parametrize("charset", sorted(CHARSETS))
def test_no_output_is_text_that_cannot_be_encoded(charset: str) -> None:
    """Whatever bytes a command writes, their text has no lone surrogate, the only thing that UTF-8 cannot express."""
    pairs = b"".join(bytes((first, second)) for first in range(256) for second in range(0, 256, 7))
    for data in (pairs, b"a" + pairs):
        assert text.Decoder(charset).feed(data).encode()


@pytest.mark.heavy
@given(text=st.text())
def test_output_cannot_forge_events(text: str) -> None:
    """E10: any output is the text of exactly one event."""
    forged = f"{text}\n\nevent: done\ndata: {{}}\r\n\r\rid: end\n\n"
    events = read(TextFramer("utf-8", 0).events([Piece(0, Stream.STDOUT, 0, forged.encode())]))
    assert [(name, content["text"]) for name, _, content in events] == [("stdout", forged)]


@given(position=st.integers(0, 10**18), stdout=st.integers(0, 8), stderr=st.integers(0, 8))
def test_cursor_round_trip(position: int, stdout: int, stderr: int) -> None:
    """A cursor is parsed from its event id, which without held-back bytes is the bare position."""
    cursor = StreamCursor(position + stdout + stderr, stdout, stderr)
    assert StreamCursor.parse(str(cursor)) == cursor
    assert str(StreamCursor(position)) == str(position)
    ended = StreamCursor(position, attempt=stdout + 1)
    assert str(ended) == f"{position}-{stdout + 1}"
    assert StreamCursor.parse(str(ended)) == ended


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "-1",
        "01",
        "1.2",
        "1.2.3.4",
        "9.9.9",
        "1.1.1",
        "٣",
        "1 ",
        " 1",
        "1\n",
        "+1",
        "1-0",
        "1-",
        "1.0.0-1",
        "end",
    ],
)
def test_malformed_cursor(text: str) -> None:
    """A text that no stream sends as an id is not parsed as a cursor."""
    with pytest.raises(ValueError, match=r"^(must be an event id|holds back)"):
        StreamCursor.parse(text)


@pytest.mark.heavy
@given(words=_TEXT, charset=st.sampled_from(sorted(CHARSETS)), data=st.data())
def test_excerpt_splits_no_character(words: str, charset: str, data: st.DataObject) -> None:
    """Both ends of an excerpt have characters of the output only, never U+FFFD."""
    known = "".join(char for char in words * 6 if char.encode(charset, "ignore")) + "-"
    encoded = known.encode(charset)
    head, tail = data.draw(st.integers(0, len(encoded))), data.draw(st.integers(0, len(encoded)))
    middle = max(head, len(encoded) - tail)
    excerpt = text.excerpt(encoded[:head], encoded[middle:], size=len(encoded), charset=charset)
    first, last = excerpt.text.split("\n… ", 1)[0], excerpt.text.rsplit(" …\n", 1)[1]
    plain = encoded.decode(charset)
    assert excerpt.truncated
    assert plain.startswith(first)
    if charset in {"utf-8", "utf-16-le", "utf-16-be"}:
        assert plain.endswith(last)
    left_out = len(encoded) - len(first.encode(charset)) - len(last.encode(charset))
    if plain.endswith(last):
        assert f"… {left_out} bytes left out …" in excerpt.text


@pytest.mark.parametrize("charset", ["gb18030", "big5", "shift_jis", "euc_jp", "euc_kr"])
def test_excerpt_finds_a_boundary(charset: str) -> None:
    """Where bytes do not show a character's beginning, the end of an excerpt begins at a blank or newline."""
    encoded = ("世界\n" * 50).encode(charset)
    for cut in range(10):
        assert "\ufffd" not in text.excerpt(b"", encoded[cut:], size=len(encoded), charset=charset).text


@pytest.mark.parametrize("charset", sorted(CHARSETS))
def test_labels_are_known(charset: str) -> None:
    """Every charset has a label that names a codec which decodes every byte and character as ours does."""
    label = text.label(charset)
    assert not label.startswith(("cp", "mac-", "iso8859"))  # Python's own names, which nobody else knows
    for data in (bytes(range(256)), "".join(map(chr, range(0x20, 0xD800))).encode(charset, "ignore")):
        assert data.decode(label, "replace") == data.decode(charset, "replace")


@pytest.mark.parametrize("charset", sorted(CHARSETS))
def test_charsets_are_asked_for_by_any_name(charset: str) -> None:
    """A charset is accepted by Python's name and by its label, in any case and with either dash."""
    assert codecs.lookup(charset).name == charset
    for name in (charset, text.label(charset)):
        for spelled in (name, name.upper(), name.replace("-", "_")):
            assert JobSpec(command="true", encoding=spelled).encoding == charset


@pytest.mark.parametrize("name", ["", "utf-7", "utf-16", "rot13", "iso2022_jp", "../x", "a\0b", "й", "x" * 9000])
def test_unknown_charsets_leave_no_trace(name: str) -> None:
    """An unknown charset is rejected without a lookup in Python, which would cache its name forever."""
    before = set(encodings._cache)
    with pytest.raises(ValidationError, match="must be a charset"):
        JobSpec(command="true", encoding=name)
    assert set(encodings._cache) == before


@pytest.mark.parametrize(
    "job",
    [
        {f"k{number}": 1 for number in range(90_000)},
        {"command": "a", "limits": {f"k{number}": 1 for number in range(90_000)}},
        {"argv": [5] * 500_000},
        {"command": "a", "env": {f"k{number}": 5 for number in range(90_000)}},
    ],
    ids=["keys", "limits", "argv", "env"],
)
def test_faults_are_bounded(job: object) -> None:
    """However many errors a body has, no more are searched for than are reported."""
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate(job)
    assert caught.value.error_count() <= 101


def test_the_most_arguments_and_variables() -> None:
    """16,384 arguments and 4,096 variables are accepted, and one more of either is rejected."""
    for key, most in (("argv", ["a"] * 16_384), ("env", {f"A{number}": "" for number in range(4_096)})):
        rest = {} if key == "argv" else {"command": "true"}
        JobSpec.model_validate({key: most, **rest})
        more = [*most, "a"] if isinstance(most, list) else {**most, "B": ""}
        with pytest.raises(ValidationError, match=f"must have at most {len(most)} items"):
            JobSpec.model_validate({key: more, **rest})


@pytest.mark.heavy
@given(
    document=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_body_round_trip(document: object) -> None:
    """A document that is dumped and loaded is the same."""
    assert json_codec.loads(json_codec.dumps(document)) == document


@given(content=st.binary() | st.text('{}[]",:\\u0d8123eE.-+NaInfity truefals').map(str.encode))
def test_body_load_is_total(content: bytes) -> None:
    """Every body is a document or MalformedJson, and a document can be dumped again."""
    try:
        document = json_codec.loads(content)
    except MalformedJson:
        return
    json_codec.dumps(document)  # no error is raised


def test_half_a_surrogate_pair_costs_no_answer() -> None:
    """A lone surrogate, as a file name may contain one, is replaced, and the rest of the document stays."""
    assert json_codec.dumps({"detail": "/tmp/\udcff", "я": 1}) == '{"detail":"/tmp/?","я":1}\n'.encode()


def test_event_is_one_line() -> None:
    """The data of an event is one line of JSON, with every script as itself."""
    assert event("status", {"a": "я\n"}) == 'event: status\ndata: {"a":"я\\n"}\n\n'.encode()
    assert event("done", {}, event_id="end") == b"event: done\nid: end\ndata: {}\n\n"
