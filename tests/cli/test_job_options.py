"""The options of `run` and `submit`: each key of a job has one, and what is typed becomes what the API takes."""

from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shellrunner.cli import job_request
from shellrunner.cli.job_selection import LAST
from shellrunner.cli.parameters import argument_types, job_options
from shellrunner.cli.parameters.job_ids import JOB_IDS
from shellrunner.cli.stdin_source import StdinSource
from shellrunner.client import ClientError
from shellrunner.clock import format_rfc3339, now_ms, parse_rfc3339
from shellrunner.model import JobSpec
from shellrunner.model.names import MAX_JOB_ID

# By key (and member): what is typed, and what it becomes.
TYPED: dict[str, tuple[list[str], Any]] = {
    "command": (["echo a b"], "echo a b"),
    "name": (["--name", "nightly", "x"], "nightly"),
    "held": (["--hold", "x"], True),
    "argv": (["echo", "a b"], ["echo", "a b"]),
    "cwd": (["--cwd", "/tmp", "x"], "/tmp"),
    "env": (["-e", "A=b=c", "x"], {"A": "b=c"}),
    "stdin": (["--stdin", "-", "x"], {"stream": True}),
    "timeout": (["--timeout", "1m30s", "x"], 90.0),
    "priority": (["--priority", "-5", "x"], -5),
    "queue": (["--queue", "one", "x"], "one"),
    "profile": (["--profile", "strict", "x"], "strict"),
    "labels": (["--label", "team=a=b", "x"], {"team": "a=b"}),
    "merge_stderr": (["--merge", "x"], True),
    "leave_children": (["--end-children", "x"], False),
    "encoding": (["--encoding", "koi8-r", "x"], "koi8-r"),
    "limits": (
        ["--limit", "memory=1.5K", "--limit", "cpu=1m", "--limit", "processes=7", "--limit", "files=9",
         "--limit", "output=2M", "x"],
        {"memory_bytes": 1536, "cpu_seconds": 60, "processes": 7, "open_files": 9, "output_bytes": 2 << 20},
    ),
    "after": (["--after", "3,5-7", "--after", "9", "--after", "5", "x"], [3, 5, 6, 7, 9]),
    "start_at": (["--at", "2030-12-24T03:00:00+01:00", "x"], "2030-12-24T02:00:00.000Z"),
    "retries": (
        ["--retries", "3", "--retry-delay", "1m", "--retry-on", "timed_out,lost", "x"],
        {"max": 3, "delay": 60.0, "on": ["timed_out", "lost"]},
    ),
    "notify": (["--notify", "https://ci.example.org/x", "x"], {"url": "https://ci.example.org/x"}),
    "tty": (["--tty-size", "50x132", "--tty-echo", "x"], {"rows": 50, "columns": 132, "echo": True}),
}  # fmt: skip


def parse(*arguments: str) -> dict[str, Any]:
    """Return the arguments of `Client.submit` for a call of `submit`."""
    found: dict[str, Any] = {}

    @click.command(context_settings=job_options.CONTEXT_SETTINGS)
    @job_options.job_options
    def submit(stdin: str | None, server: str | None, **options: Any) -> None:
        source = StdinSource(fd=0) if stdin == "-" else StdinSource()
        found.update(job_options.submission(**options, stdin=source))

    submit.main([*arguments], standalone_mode=False)
    return found


@pytest.mark.parametrize("key", JobSpec.model_fields)
def test_each_key_of_a_job_has_an_option(key: str) -> None:
    """Each key of the specification is set by what TYPED has for it; the service accepts it, and a flag is known."""
    typed, value = TYPED[key]
    spec = parse(*typed)
    assert spec[key] == value
    JobSpec.model_validate(spec)
    assert key in job_request.FLAGS
    annotation = JobSpec.model_fields[key].annotation
    members = [set(getattr(each, "model_fields", {})) for each in (annotation, *get_args(annotation))]
    assert max(members, key=len) <= (set(value) if isinstance(value, dict) else set())


def test_an_idempotency_key_is_an_option_too() -> None:
    """--key becomes the header; what cannot be one is refused."""
    assert parse("--key", "nightly-1", "x")["key"] == "nightly-1"
    with pytest.raises(click.BadParameter, match="visible ASCII"):
        parse("--key", "a b", "x")


def test_what_is_not_given_is_not_sent() -> None:
    """A call without options sends the command alone, so that the service's defaults apply."""
    assert parse("x") == {"command": "x"}
    assert parse("--tty", "x")["tty"] is True
    assert parse("--split", "x")["merge_stderr"] is False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--at", "25:00", "x"), "invalid time '25:00'"),
        (("--at", "soon", "x"), "invalid time 'soon'"),
        (("--at", "03:00", "--delay", "5", "x"), "--at cannot be combined with --delay"),
        (("--retry-on", "lost", "x"), "require --retries"),
        (("--retries", "1", "--retry-on", "cancelled", "x"), "'cancelled' is not one of"),
        (("--limit", "memory", "x"), "'memory' is not one of memory=…"),
        (("--limit", "memory=much", "x"), "memory: invalid size 'much'"),
        (("--limit", "files=1", "x"), "files: '1' is not a whole number from 8"),
        (("--tty-size", "80", "x"), "invalid size '80'"),
        (("--priority", "²", "x"), "'²' is not a whole number"),
        (("--priority", "1001", "x"), "1001 is not in the range"),
        (("--after", "7-3", "x"), "the range '7-3' is reversed: write 3-7"),
        (("--after", "x", "x"), "'x' is not a valid id"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_option(arguments: tuple[str, ...], words: str) -> None:
    """Each is a usage error, whose message has the value that is wrong."""
    with pytest.raises(click.UsageError) as raised:
        parse(*arguments)
    assert words in raised.value.format_message()


def test_a_delay_counts_from_now() -> None:
    """--delay becomes a time to start at."""
    before = now_ms()
    start = parse_rfc3339(parse("--delay", "1h", "x")["start_at"])
    assert before + 3_600_000 <= start <= now_ms() + 3_600_000


def test_a_time_of_day_is_the_next_one() -> None:
    """A time without a date is within the next day; `tomorrow` and dates are of the zone of this machine."""
    now = datetime.now().astimezone()
    for text in ("00:00", "12:30", "23:59:59"):
        ahead = parse_rfc3339(argument_types.parse_moment(text)) - now.timestamp() * 1000
        assert 0 < ahead <= timedelta(days=1, hours=1).total_seconds() * 1000
    local = datetime.fromisoformat("2030-12-24T03:04").astimezone(UTC)
    assert argument_types.parse_moment("2030-12-24 03:04") == f"{local:%Y-%m-%dT%H:%M:%S}.000Z"
    noon = datetime.fromisoformat(argument_types.parse_moment("tomorrow 12:00")).astimezone()
    assert (noon.date() - now.date(), noon.hour) == (timedelta(days=1), 12)


@given(st.integers(0, 200_000_000_000_000))
def test_a_time_with_its_zone_is_itself(moment: int) -> None:
    """Each time that the API shows may be typed."""
    text = format_rfc3339(moment)
    assert argument_types.parse_moment(text) == text


@given(st.lists(st.tuples(st.integers(1, MAX_JOB_ID - 60), st.integers(0, 50)), min_size=1, max_size=5))
def test_ids_are_ids_and_ranges(ranges: list[tuple[int, int]]) -> None:
    """A word with commas and ranges names each of their ids, in order."""
    word = ",".join(f"{first}-{first + more}" if more else str(first) for first, more in ranges)
    expected = [each for first, more in ranges for each in range(first, first + more + 1)]
    assert JOB_IDS.convert(word, None, None) == expected


def test_a_huge_range_is_refused_at_once() -> None:
    """A range of more jobs than a person can mean is an error, not a list in memory; `last` is a word of its own."""
    with pytest.raises(click.BadParameter, match="names more than 10000 jobs"):
        JOB_IDS.convert(f"1-{MAX_JOB_ID}", None, None)
    assert len(JOB_IDS.convert("1-10000", None, None)) == 10_000
    assert JOB_IDS.convert("last,3", None, None) == [LAST, 3]


@pytest.mark.parametrize(
    ("pointer", "flag"),
    [
        ("#/queue", "--queue"), ("#/limits/memory_bytes", "--limit memory"), ("#/retries/delay", "--retry-delay"),
        ("#/env/A", "--env A"), ("#/start_at", "--at"), ("#/tty/rows", "--tty-size"), ("#/argv/3", "COMMAND"),
        ("#", "COMMAND"), ("#/labels/x y", "--label x y"), ("#/new_key", "#/new_key"),
    ],
)  # fmt: skip
def test_errors_name_the_flag(pointer: str, flag: str) -> None:
    """A pointer of the service becomes the flag that sets what is wrong; an unknown one stays."""
    problem: Any = {"errors": [{"pointer": pointer, "detail": "is wrong"}], "detail": f"{pointer}: is wrong"}
    with pytest.raises(ClientError) as raised, job_request.errors_name_flags():
        raise ClientError(problem["detail"], kind="invalid-job", status=422, problem=problem)
    assert raised.value.detail == f"{flag}: is wrong"
