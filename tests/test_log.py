"""The log: one line of JSON for each event, which never blocks or fails the service."""

import contextlib
import json
import logging
import os
import re
import select
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shellrunner import log
from shellrunner.model import Ending
from tests.support.function_calls import count_calls

SETUP = """
import logging, os, sys
from shellrunner import log
log.configure({level!r})
logger = logging.getLogger("shellrunner.web")
"""


def run(code: Any, level: str = "info", **options: Any) -> Any:
    """Return the standard error of a process that logs this way."""
    done = subprocess.run(
        [sys.executable, "-c", SETUP.format(level=level) + code],
        stderr=subprocess.PIPE, timeout=30, check=True, **options,
    )  # fmt: skip
    return done.stderr


def events(code: Any, level: str = "info", **options: Any) -> list[Any]:
    """Return the same, as JSON."""
    return [json.loads(line) for line in run(code, level, **options).decode().splitlines()]


def test_an_event_is_one_line_of_json_with_its_details() -> None:
    """Time, level, event and logger come first, then the event's own; text stays as it is."""
    (line,) = (
        run("logger.info('job %s', 'принято', extra={'job': 12, 'command': 'echo \"ї\"\\n', 'n': None})")
        .decode()
        .splitlines()
    )
    assert re.fullmatch(
        r'\{"time":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z","level":"info","event":"job принято",'
        r'"logger":"shellrunner.web","job":12,"command":"echo \\"ї\\"\\n","n":null\}',
        line,
    )


def test_text_is_utf8_under_lang_c() -> None:
    """A service that was started with LANG=C writes Cyrillic all the same (O5)."""
    environment = os.environ | {"LANG": "C", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    assert events(f"logger.info({'привет'!a})", env=environment)[0]["event"] == "привет"


def test_what_is_no_text_and_no_json_does_not_break_the_line() -> None:
    """A lone surrogate, bytes and other objects are written in a form that can be read back."""
    found = events(
        "logger.info('x', extra={'path': '\\udcff', 'raw': b'\\xff', 'set': {1}, 'flag': True, 'f': 0.5})"
    )[0]
    assert (found["path"], found["raw"], found["set"]) == ("\udcff", "b'\\xff'", "{1}")
    assert (found["flag"], found["f"]) == (True, 0.5)


@pytest.mark.heavy
def test_what_a_terminal_would_act_on_is_escaped() -> None:
    """Control characters of C0 and C1, bidirectional, invisible and line-separating ones are escapes, as in JSON."""
    kinds = {"Cc", "Cf", "Zl", "Zp"}
    path = "".join(filter(lambda each: unicodedata.category(each) in kinds, map(chr, range(sys.maxunicode + 1))))
    (line,) = run(f"logger.info('x', extra={{'path': {path!a}}})").decode().splitlines()
    assert json.loads(line)["path"] == path
    assert not kinds & {unicodedata.category(each) for each in line}
    assert "їe\u0301" in run("logger.info('їe\u0301')").decode()


def test_an_exception_is_a_field_on_the_same_line() -> None:
    """A traceback adds no lines."""
    code = "try: 1 / 0\nexcept ZeroDivisionError: logger.exception('failed', extra={'job': 3})"
    (found,) = events(code)
    assert (found["level"], found["job"]) == ("error", 3)
    assert found["exception"].startswith("Traceback")
    assert "ZeroDivisionError" in found["exception"]


def test_a_faulty_call_is_logged_and_does_no_harm() -> None:
    """Arguments that do not fit their text become an event of their own, and the next line is whole."""
    first, second = events("logger.info('%d', 'x'); logger.info('on')")
    assert (first["event"], first["level"]) == ("faulty log line", "error")
    assert second["event"] == "on"


@pytest.mark.heavy
def test_the_level_is_for_our_packages_and_others_never_log_their_secrets() -> None:
    """At debug, our packages log; aiosqlite, which would log each statement's values, does not below warning."""
    code = """
logger.debug('ours')
logging.getLogger('aiosqlite').debug('INSERT secret')
logging.getLogger('aiosqlite').info('INSERT secret')
logging.getLogger('asyncio').error('theirs')
logging.getLogger('aiohttp.access').error('GET /')
import warnings; warnings.warn('old')
"""
    assert [found["event"] for found in events(code, "debug")][:2] == ["ours", "theirs"]
    assert "GET /" not in run(code, "debug").decode()
    assert [found["logger"] for found in events(code, "debug")] == ["shellrunner.web", "asyncio", "py.warnings"]
    assert [found["event"] for found in events("logger.info('a'); logger.error('b')", "error")] == ["b"]


def test_journald_finds_the_level_before_each_line_and_nobody_else_does() -> None:
    """The prefix is there exactly if $JOURNAL_STREAM is about this standard error."""
    code = "\n".join(f"logger.{level}('x')" for level in ("debug", "info", "warning", "error", "critical"))
    named = """
status = os.fstat(2)
os.environ['JOURNAL_STREAM'] = f'{status.st_dev}:{status.st_ino + %d}'
log.configure('debug')
"""
    prefixes = re.findall(rb"^(<\d>)\{", run(named % 0 + code, "debug"), re.MULTILINE)
    assert prefixes == [b"<7>", b"<6>", b"<4>", b"<3>", b"<2>"]
    assert b"<" not in run(named % 1 + code, "debug")


@pytest.mark.parametrize("how", ["2>&-", "2>/dev/full", "2> >(exec 0<&-; exec true)"])
def test_a_log_that_is_closed_full_or_gone_hurts_nobody(how: str, tmp_path: Path) -> None:
    """The process runs to its end, whatever happens to its standard error."""
    code = SETUP.format(level="info") + "for n in range(5000): logger.info('x' * 100)\nprint('alive')"
    script = tmp_path / "script.py"
    script.write_text(code)
    done = subprocess.run(
        ["bash", "-c", f'"$0" "$1" {how}', sys.executable, script], stdout=subprocess.PIPE, timeout=30, check=True
    )
    assert done.stdout == b"alive\n"


def test_a_stopped_reader_blocks_nothing_and_gets_the_number_of_dropped_lines() -> None:
    """Lines that do not fit are dropped and counted; every line that arrives whole is JSON."""
    code = """
for n in range(3000): logger.info('x' * 6000, extra={'n': n})
print('alive', flush=True)
sys.stdin.read()
logger.info('again')
"""
    with subprocess.Popen(
        [sys.executable, "-c", SETUP.format(level="info") + code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"alive\n"  # nothing was read of the log until now
        read = os.read(process.stderr.fileno(), 1 << 20)
        process.stdin.close()
        *lines, complaint, last = (read + process.stderr.read()).decode().splitlines()
    assert json.loads(last)["event"] == "again"
    whole = [json.loads(line)["n"] for line in lines if line.endswith("}")]
    assert whole == list(range(len(whole)))
    assert json.loads(complaint)["lines"] == 3000 - len(whole) > 0


@contextlib.contextmanager
def almost_full_log() -> Iterator[tuple[Any, ...]]:
    """Yield a log through a pipe that takes one piece of a line, its audit sink, and a function that reads it."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b" " * select.PIPE_BUF)
    os.set_blocking(writing, True)
    os.read(reading, select.PIPE_BUF)
    lines = log.JsonLinesHandler(writing)
    logging.getLogger().addHandler(lines)
    try:
        yield (
            lines,
            partial(lines.write, logging.INFO, logger=log.AUDIT),
            lambda: os.read(reading, 1 << 20).lstrip(b" "),
        )
    finally:
        logging.getLogger().removeHandler(lines)
        os.close(reading)
        os.close(writing)


def test_a_line_of_the_audit_is_whole_behind_half_a_line() -> None:
    """A line that was written is one line, although only half of the one before it was."""
    with almost_full_log() as (_, audit, read):
        assert not audit("accepted", details={"path": "x" * 6000})
        assert not read().endswith(b"\n")
        assert audit("accepted", details={"path": "/api/jobs"})
        half, whole, end = read().split(b"\n")
        assert (half, json.loads(whole)["path"], end) == (b"", "/api/jobs", b"")


def test_half_a_line_of_the_log_spoils_none_of_the_audit() -> None:
    """After a cut line of either, the next line of the other begins on a line of its own."""
    with almost_full_log() as (lines, audit, read):
        lines.handle(logging.makeLogRecord({"name": "x", "msg": "x" * 6000}))
        assert read()
        assert audit("accepted", details={"path": "/api/jobs"})
        end_of_half, whole = read().splitlines()
        assert (end_of_half, json.loads(whole)["path"]) == (b"", "/api/jobs")


def test_a_line_that_a_full_disk_takes_a_part_of_was_not_taken(tmp_path: Path) -> None:
    """Where a file may grow no further, write(2) takes what fits: the line counts as not written."""
    code = f"""
import os, resource, signal
from shellrunner import log
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))
lines = log.handler(os.open({str(tmp_path / "log")!r}, os.O_WRONLY | os.O_CREAT))
print(*[lines.write(20, "accepted", log.AUDIT, {{}}) for _ in range(2)])
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=30, check=True)
    assert done.stdout == b"False False\n"


def test_threads_do_not_cut_into_each_others_lines(tmp_path: Path) -> None:
    """Lines that many threads write at once are all there and all whole."""
    code = """
import threading
def talk(name):
    for n in range(300): logger.info('y' * 5000, extra={'name_': name, 'n': n})
threads = [threading.Thread(target=talk, args=(i,)) for i in range(4)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
"""
    path = tmp_path / "log"
    with path.open("wb") as file:
        subprocess.run([sys.executable, "-c", SETUP.format(level="info") + code], stderr=file, check=True, timeout=30)
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({(event["name_"], event["n"]) for event in found}) == len(found) == 1200


ENDED = {"job": 12, "ending": Ending.EXITED, "exit_code": 0, "signal": None, "duration": 0.00012, "text": "їё\\x7f"}


@contextlib.contextmanager
def only_handler() -> Iterator[tuple[logging.Logger, Any]]:
    """Yield a logger whose only handler writes lines to a pipe, and a function that reads the pipe."""
    reading, writing = os.pipe()
    root, logger = logging.getLogger(), logging.getLogger("shellrunner.test_log")
    before, root.handlers = root.handlers, [log.JsonLinesHandler(writing)]
    logger.setLevel(logging.INFO)
    try:
        yield logger, lambda: os.read(reading, 1 << 20).decode()
    finally:
        root.handlers = before
        logger.setLevel(logging.NOTSET)
        os.close(reading)
        os.close(writing)


def test_a_line_about_a_job_is_the_same_without_a_record() -> None:
    """`info` writes, or does not write, what the logger's own method does."""
    with only_handler() as (logger, read):
        logger.info("job ended", extra=ENDED)
        log.info(logger, "job ended", ENDED)
        first, second = read().splitlines()
        assert json.loads(first)["ending"] == "exited"
        assert first.partition('"level"')[2] == second.partition('"level"')[2]
        logger.setLevel(logging.WARNING)
        log.info(logger, "job ended", ENDED)
        logger.warning("on")
        assert json.loads(read())["event"] == "on"


def test_another_handler_gets_a_record_of_a_line_about_a_job(caplog: pytest.LogCaptureFixture) -> None:
    """What is attached to the logging module besides the log misses nothing."""
    with caplog.at_level(logging.INFO, "shellrunner.test_log"):
        log.info(logging.getLogger("shellrunner.test_log"), "job ended", ENDED)
    (record,) = caplog.records
    assert (record.getMessage(), record.__dict__["job"]) == ("job ended", 12)


def test_a_line_about_a_job_that_does_not_fit_is_dropped_and_counted() -> None:
    """The next line that fits says how many did not."""
    with almost_full_log() as (lines, _, read):
        for _ in range(3):
            lines.log(logging.INFO, "x" * 6000, "shellrunner.test_log", {})
        read()
        lines.log(logging.INFO, "on", "shellrunner.test_log", {})
        _, dropped, last = read().splitlines()
        assert (json.loads(dropped)["lines"], json.loads(last)["event"]) == (3, "on")


def test_a_line_takes_few_calls() -> None:
    """Each job has three lines, so a line walks over its details in C, and one about a job needs no record."""
    with only_handler() as (logger, read):
        log.info(logger, "job ended", ENDED)  # what is cached is cached now
        (handler,) = logging.getLogger().handlers
        assert isinstance(handler, log.JsonLinesHandler)
        assert count_calls(lambda: log.info(logger, "job ended", ENDED)) <= 40
        assert count_calls(lambda: handler.write(logging.INFO, "job ended", log.AUDIT, ENDED)) <= 30
        assert len(read().splitlines()) == 3


def test_text_is_for_people() -> None:
    """In text a line has the time of day, the event and its details, without null, and nothing acts on a terminal."""
    details = {"job": 12, "ending": "exited", "signal": None, "duration": 0.25, "urls": ["a", "b"], "x": "y \x1b[2J"}
    line = log.format_text(logging.INFO, "job ended", details, is_colored=False)
    assert re.fullmatch(
        r'\d\d:\d\d:\d\d job ended job=12 ending=exited duration=0\.250 urls=a,b x="y \\u001b\[2J"\n', line
    )
    red = log.format_text(logging.ERROR, "gone", {}, is_colored=True)
    assert red.endswith("\x1b[31merror: gone\x1b[0m\n")


def test_a_line_fits_the_terminal_unless_something_is_wrong() -> None:
    """On a terminal an ordinary line is cut at its width, without details for programs; a warning is whole."""
    details = {"request": "r-1", "who": "uid:0", "command_sha256": "5" * 64, "command": "x" * 100}
    line = log.format_text(logging.INFO, "accepted", details, is_colored=False, width=40)
    assert re.fullmatch(r"\d\d:\d\d:\d\d accepted who=uid:0 command=x+…\n", line)
    assert len(line) == 41
    for level, width in ((logging.WARNING, 40), (logging.INFO, None)):
        whole = log.format_text(level, "accepted", details, is_colored=False, width=width)
        assert all(str(value) in whole for value in details.values())


@pytest.mark.heavy
def test_a_terminal_gets_text_unless_json_is_asked_for() -> None:
    """`auto` is text on a terminal and JSON elsewhere; `json` and `text` are that everywhere."""
    for style, on_terminal, elsewhere in (("auto", False, True), ("json", True, True), ("text", False, False)):
        code = f"log.configure('info', style={style!r}); logger.info('begun', extra={{'n': 1}})"
        master, slave = os.openpty()
        with open(master, "rb", 0) as screen, open(slave, "wb", 0) as terminal:
            subprocess.run([sys.executable, "-c", SETUP.format(level="info") + code], stderr=terminal, check=True)
            shown = screen.read(1000)
        for line, is_json in ((shown, on_terminal), (run(code), elsewhere)):
            assert line.startswith(b"{") is is_json, (style, line)
            assert b"begun" in line
