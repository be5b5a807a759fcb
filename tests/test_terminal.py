"""Commands on a pseudo-terminal: what they see of it, how input is typed and ends, that no byte is lost."""

import asyncio
import hashlib
import os
import time
from pathlib import Path
from typing import Any

import pytest

from shellrunner.keeper import process_tree
from shellrunner.keeper.pty import Pty
from shellrunner.keeper.slot import SlotReader
from tests.support.keepers import Talk, ended, give, keep, start
from tests.support.processes import lives
from tests.support.service import Service
from tests.support.sse import output_text, parse
from tests.support.users import sees_keepers
from tests.support.waiting import until

SIZE = [31, 97]


def on_terminal(keeping: tuple[Talk, SlotReader], command: Any, job: int = 1, **more: Any) -> Any:
    """Run it to its end; return its end and its output."""
    keeper, slot = keeping
    return keep(keeper, slot, job, command, **({"tty": SIZE, "timeout": 20} | more))


async def output(keeping: tuple[Talk, SlotReader], job: int = 1, ends_with: bytes = b"") -> Any:
    """Wait until what the job wrote ends so, and return all of it."""
    _, slot = keeping

    def written() -> Any:
        record = slot.find(job, "t")
        data = record and slot.data(record, 0, record.progress.get("stdout", 0))
        return data if data and data.endswith(ends_with) else None

    return await until(written, what=f"{ends_with!r} was written")


def test_the_command_has_a_terminal_of_its_own(keeping: tuple[Talk, SlotReader]) -> None:
    """Descriptors 0 to 2 are one terminal of the size asked for, without echo, and it is the controlling one."""
    end, data = on_terminal(
        keeping,
        "test -t 0 && test -t 1 && test -t 2 && stty size && echo written >/dev/tty && tty >&2;"
        "stty -a | grep -ow -e '-echo'; ps -o sid=,pgid=,tpgid=,pid= -p $$ | xargs; ls /proc/self/fd | xargs",
    )
    size, written, name, echo, ids, descriptors = data.decode().splitlines()
    assert (size, written, echo) == ("31 97", "written", "-echo")
    assert name.startswith("/dev/pts/")
    session, group, foreground, pid = map(int, ids.split())
    assert group == foreground == pid
    assert session == keeping[0].hello["identity"]["pid"], "else its own end would hang it up"
    assert descriptors == "0 1 2 3"  # ls itself has the directory open as 3
    assert (end["exit_code"], end["stderr"]) == (0, 0)


def test_signals_are_as_without_a_terminal(keeping: tuple[Talk, SlotReader]) -> None:
    """No ignored or blocked signal (glibc's own two aside)."""
    _, data = on_terminal(keeping, "grep -E '^Sig(Blk|Ign)' /proc/self/status")
    masks = [int(line.split()[1], 16) & ~(0b11 << 31) for line in data.decode().splitlines()]
    assert masks == [0, 0]


@pytest.mark.heavy
def test_o4_the_tail_is_not_lost_to_children_that_hold_the_terminal(keeping: tuple[Talk, SlotReader]) -> None:
    """A child has the terminal open, and the kernel holds less than is written: every byte is there, nobody waits."""
    began = time.monotonic()
    for job in range(1, 21):
        end, data = on_terminal(keeping, "trap '' HUP; sleep 60 & printf '%09000d' 1; exit 3", job)
        assert (end["exit_code"], data) == (3, b"0" * 8999 + b"1")
    assert time.monotonic() - began < 15


@pytest.mark.heavy
def test_a_child_that_writes_for_ever_does_not_hold_the_end(keeping: tuple[Talk, SlotReader]) -> None:
    """A child that writes to the terminal after the command's end does not delay the end."""
    end, data = on_terminal(keeping, "trap '' HUP; yes & sleep 0.2; echo end; exit 3")
    assert end["exit_code"] == 3
    assert b"end\r\n" in data or end["stdout"] > len(data)
    assert not process_tree.descendants(keeping[0].hello["identity"]["pid"])


def test_a_closed_terminal_can_be_opened_again(keeping: tuple[Talk, SlotReader]) -> None:
    """A command that closes all of its descriptors and opens /dev/tty later is still read."""
    end, data = on_terminal(keeping, "exec <&- >&- 2>&-; sleep 0.1; echo again > /dev/tty")
    assert (end["exit_code"], data) == (0, b"again\r\n")


@pytest.mark.parametrize("command", ["cat", "cat; cat; read x; echo $?", "sleep 0.1; wc -c; head -n 1", "sort"])
def test_p12_without_input_every_read_finds_the_end(keeping: tuple[Talk, SlotReader], command: str) -> None:
    """However often and however late a command reads, its input is at its end."""
    end, data = on_terminal(keeping, command)
    assert end["ending"] == "exited"
    assert data.split() in ([], [b"1"], [b"0"])


def test_a_program_that_edits_lines_itself_gets_the_key_for_the_end(keeping: tuple[Talk, SlotReader]) -> None:
    """Where the terminal is raw there is no end: the key comes once, as a key."""
    program = (
        "import os, select, termios, tty; old = termios.tcgetattr(0); tty.setraw(0, termios.TCSANOW)\n"
        "keys = bytes()\n"
        "while select.select([0], [], [], 0.5)[0]: keys += os.read(0, 9)\n"
        "termios.tcsetattr(0, termios.TCSANOW, old); print(keys)"
    )
    end, data = on_terminal(keeping, "", argv=["/usr/bin/env", "python3", "-c", program])
    assert end["exit_code"] == 0
    # The end that was typed before it became raw arrives as the NUL that the terminal keeps for it.
    assert data in (b"b'\\x04'\r\n", b"b'\\x00\\x04'\r\n")


@pytest.mark.parametrize("text", ["one\ntwo\n", "one\nrest", "x" * 4000, "строка\n" * 30_000, "\n", ""])
def test_text_is_typed_and_then_its_end(keeping: tuple[Talk, SlotReader], text: str) -> None:
    """The text arrives line by line, the last one without a newline too; then every read finds the end."""
    end, data = on_terminal(keeping, "wc -c; cat", stdin=text)
    assert end["ending"] == "exited"
    assert data.split() == [str(len(text.encode())).encode()]


async def test_streamed_input_is_typed_as_it_comes(keeping: tuple[Talk, SlotReader]) -> None:
    """A prompt can be answered once it is shown; after the end every later read finds the end."""
    keeper, _ = keeping
    start(keeper, 1, "printf 'name? '; read name; echo hi $name; cat; cat; echo over", tty=SIZE, stream=True)
    await output(keeping, ends_with=b"name? ")
    assert give(keeper, "мир\n".encode()) == (7, None)
    await output(keeping, ends_with="hi мир\r\n".encode())
    assert give(keeper, b"rest", offset=7, end=True) == (11, None)
    assert keeper.receive()["say"] == "ended"
    assert ended(keeping[1], 1)[1].endswith(b"\r\nrestover\r\n")


def test_a_terminal_that_is_hung_up_between_two_looks_is_no_error() -> None:
    """vhangup(2), which commands of root can call at any moment, does not end their keeper."""

    class HungUp(Pty):
        def _is_unread(self) -> bool:
            for end in (self.master, self.sink):  # the last of them hangs the other side up
                os.close(end)
            return False

    terminal = HungUp(SIZE, b"", is_open=False)
    terminal.poll()
    assert terminal.due is not None
    terminal.sink = -1
    terminal.close()


@pytest.mark.heavy
async def test_more_than_a_terminal_holds_is_typed_as_it_is_read(keeping: tuple[Talk, SlotReader]) -> None:
    """A million bytes of lines wait for a slow reader and arrive unchanged, and the keeper stays responsive."""
    keeper, _ = keeping
    lines = b"".join(b"line %06d\n" % number for number in range(87_000))
    start(keeper, 1, "stty -onlcr; sleep 0.3; md5sum; wc -c", tty=SIZE, stream=True, timeout=20)
    assert give(keeper, lines, end=True) == (len(lines), None)
    assert keeper.receive()["say"] == "ended"
    assert ended(keeping[1], 1)[1].decode().split() == [hashlib.md5(lines).hexdigest(), "-", "0"]


async def test_ctrl_c_ends_the_foreground(keeping: tuple[Talk, SlotReader]) -> None:
    """Ctrl-C that is typed interrupts what is in the foreground, as at any terminal."""
    keeper, slot = keeping
    start(keeper, 1, "echo up; exec sleep 600", tty=SIZE, stream=True)
    await output(keeping, ends_with=b"up\r\n")
    assert give(keeper, b"\x03") == (1, None)
    assert keeper.receive()["say"] == "ended"
    end, _ = ended(slot, 1)
    assert (end["ending"], end["signal"]) == ("signalled", "SIGINT")


async def test_left_children_are_drained_and_keep_their_terminal(
    keeping: tuple[Talk, SlotReader], tmp_path: Path
) -> None:
    """With leave_children, a child that ignores SIGHUP lives on, and its writes succeed and are discarded."""
    keeper, _ = keeping
    go, proof = tmp_path / "go", tmp_path / "proof"
    child = f"while [ ! -e {go} ]; do echo tick || exit 1; sleep 0.01; done; tty > {proof}; yes | head -n 9999"
    start(keeper, 1, f"trap '' HUP; ({child}; echo $? >> {proof}) & echo $!", tty=SIZE, leave_children=True)
    message = keeper.receive()
    assert (message["say"], message["retiring"]) == ("ended", True)
    # The child may tick before its number is written.
    pid = next(int(word) for word in ended(keeping[1], 1)[1].split() if word.isdigit())
    keeper.connection.close()
    await asyncio.sleep(0)
    assert lives(pid)
    go.touch()
    assert await until(lambda: proof.exists() and proof.read_text().endswith("\n0\n"))
    await until(lambda: not lives(keeper.hello["identity"]["pid"]))


@sees_keepers
def test_a_cancelled_terminal_leaves_nothing(keeping: tuple[Talk, SlotReader]) -> None:
    """A program that ignores everything is killed after the grace; the keeper has the descriptors it began with."""
    keeper, _ = keeping
    pid = keeper.hello["identity"]["pid"]
    before = sorted(os.listdir(f"/proc/{pid}/fd"))
    for job in range(1, 4):
        end, _ = on_terminal(keeping, "trap '' TERM HUP; while :; do sleep 0.05; done", job, timeout=0.5, grace=0.1)
        assert (end["ending"], end["signal"]) == ("timed_out", "SIGKILL")
    end, _ = on_terminal(keeping, "true", 4, cwd="/no/such")
    assert end["ending"] == "failed_to_start"
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == before
    assert not process_tree.descendants(pid)


# Through the service ----------------------------------------------------------------------------------------------


async def test_colours_and_progress_bars_arrive_as_they_are(service: Service) -> None:
    """`ls` colours its output, carriage returns stay, and the stream carries them to the byte."""
    command = "cd /; ls -d --color=auto bin etc; printf '10%%\\r50%%\\r100%%\\n'; echo $TERM; stty size"
    job = await service.submit(command, tty=True)
    result = await service.result(job)
    assert "\x1b[" in result["stdout"].splitlines()[0]
    assert result["stdout"].endswith("10%\r50%\r100%\r\nxterm-256color\r\n24 80\r\n")
    assert (result["stderr"], result["exit_code"]) == ("", 0)
    async with service.session.get(f"{service.url}/api/statuses/{job}/events") as response:
        events = [event async for event in parse(response.content)]
    assert output_text(events) == result["stdout"]


async def test_the_size_is_the_one_asked_for(service: Service) -> None:
    """The terminal has the rows and columns of the job."""
    result = await service.run("stty size", tty={"rows": 50, "columns": 132})
    assert result["stdout"] == "50 132\r\n"


@pytest.mark.heavy
async def test_a_job_can_set_its_own_term(service: Service) -> None:
    """A job's environment overrides the TERM that a terminal sets; without a terminal TERM is not set."""
    assert (await service.run("echo $TERM", tty=True, env={"TERM": "vt100"}))["stdout"] == "vt100\r\n"
    assert (await service.run("echo ${TERM-none}"))["stdout"] in ("none\n", "dumb\n")


@pytest.mark.heavy
async def test_a_terminal_goes_on_through_a_restart(service: Service) -> None:
    """A server that is killed and started again finds the terminal and its input as they were."""
    job = await service.submit("read a; echo got $a; read b; echo got $b; exit 7", tty=True, stdin={"stream": True})
    await service.running(job)
    assert (await service.ask("POST", f"/api/jobs/{job}/stdin", data=b"one\n"))[0] == 204
    await service.restart()
    assert (await service.ask("POST", f"/api/jobs/{job}/stdin?offset=4&end=true", data=b"two\n"))[0] == 204
    result = await service.result(job)
    assert (result["stdout"], result["exit_code"]) == ("got one\r\ngot two\r\n", 7)


PAGERS = "PAGER GIT_PAGER GH_PAGER AWS_PAGER MANPAGER SYSTEMD_PAGER"
SHOW_PAGERS = f"for name in {PAGERS}; do eval echo \\${{$name-unset}}; done | xargs"


@pytest.mark.heavy
async def test_t4_no_pager_waits_for_a_key_that_nobody_can_press(service: Service, tmp_path: Path) -> None:
    """PAGER and its kin are cat: `git log` ends, although the repository's configuration has a pager that waits."""
    assert (await service.run(SHOW_PAGERS, tty=True))["stdout"].split() == ["cat"] * 6
    assert (await service.run(SHOW_PAGERS, tty=True, stdin="text"))["stdout"].split() == ["cat"] * 6
    waiting = tmp_path / "pager"
    waiting.write_text("#!/bin/sh\nread key </dev/tty\n")
    waiting.chmod(0o755)
    commands = f"""
        git init -q {tmp_path}/repository && cd {tmp_path}/repository && git config core.pager {waiting}
        git -c user.name=a -c user.email=a@b commit -q --allow-empty -m subject
        git log
    """
    result = await service.run(commands, tty=True, timeout=20, env={"HOME": str(tmp_path)})
    assert (result["ending"], result["exit_code"]) == ("exited", 0)
    assert "subject" in result["stdout"]


@pytest.mark.heavy
async def test_t4_a_job_with_input_or_a_pager_of_its_own_keeps_it(service: Service) -> None:
    """With an input stream or a PAGER in `env`, none is set; one variable of `env` replaces only itself."""
    job = await service.submit(SHOW_PAGERS, tty=True, stdin={"stream": True})
    assert (await service.result(job))["stdout"].split() == ["unset"] * 6
    own = await service.run(SHOW_PAGERS, tty=True, env={"PAGER": "less"})
    assert own["stdout"].split() == ["less", *["unset"] * 5]
    mixed = await service.run(SHOW_PAGERS, tty=True, env={"GIT_PAGER": "delta"})
    assert mixed["stdout"].split() == ["cat", "delta", *["cat"] * 4]
    assert (await service.run(SHOW_PAGERS))["stdout"].split() == ["unset"] * 6
