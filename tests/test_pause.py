"""Pausing: all of a job's tree stops and stays stopped, goes on as it was, and ends as ever."""

import asyncio
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shellrunner.keeper import process_tree
from shellrunner.keeper.process_tree import Process, pause
from shellrunner.keeper.slot import SlotReader
from tests.support.keepers import ForkServer, Talk, ended, give, kept, start
from tests.support.service import InProcess, Service
from tests.support.sse import parse
from tests.support.users import sees_keepers
from tests.support.waiting import until

pytestmark = sees_keepers

FORKS = "setsid sh -c 'while :; do sleep 0.01; done' & while :; do (sleep 0.01; :) & sleep 0.005; done"


def tree(keeper: Talk) -> list[Process]:
    """Return the living processes of the command."""
    return process_tree.living(keeper.hello["identity"]["pid"])


def all_stopped(keeper: Talk) -> bool:
    """Return whether there are processes of the command, and none can go on.

    The parent of a stopped child waits for it without interruption (D) until it has executed its program (vfork(2)).
    """
    found = tree(keeper)
    return bool(found) and all(process.is_stopped or process.state == b"D" for process in found)


def ask(keeper: Talk, do: str, **more: Any) -> list[Any]:
    """Ask for something that is answered; return what the keeper sends until it answers."""
    keeper.send(**{"do": do, "job": 1, "token": "t"} | more)
    received = [keeper.receive()]
    while received[-1]["say"] != "did":
        received.append(keeper.receive())
    return [(each["say"], each.get("paused", each.get("refused"))) for each in received]


def end(keeper: Talk, job: int = 1) -> None:
    """End the command, and see that it has ended."""
    keeper.send(do="cancel", job=job, token="t")
    while keeper.receive()["say"] != "ended":
        pass


@pytest.mark.heavy
async def test_a_tree_that_forks_all_the_time_is_stopped_and_goes_on(keeping: tuple[Talk, SlotReader]) -> None:
    """Every process of every session is stopped, also those that are forked meanwhile; nothing new appears."""
    keeper, _ = keeping
    start(keeper, 1, FORKS)
    await until(lambda: len(tree(keeper)) > 4)
    for _ in range(5):
        assert ask(keeper, "pause") == [("state", True), ("did", None)]
        await until(lambda: all_stopped(keeper))
        before = {process.pid for process in tree(keeper)}
        assert ask(keeper, "pause") == [("did", None)]
        assert {process.pid for process in tree(keeper)} == before
        assert ask(keeper, "resume") == [("state", False), ("did", None)]
        await until(lambda: not any(process.is_stopped for process in tree(keeper)))
        assert ask(keeper, "resume") == [("did", None)]
    end(keeper)


async def test_what_somebody_else_lets_go_on_is_stopped_again(keeping: tuple[Talk, SlotReader]) -> None:
    """A SIGCONT from outside does not make `paused` false."""
    keeper, _ = keeping
    start(keeper, 1, "sleep 600 & exec sleep 600")
    await until(lambda: len(tree(keeper)) == 2)
    ask(keeper, "pause")
    await until(lambda: all_stopped(keeper))
    for process in tree(keeper):
        os.kill(process.pid, signal.SIGCONT)
    await until(lambda: all_stopped(keeper))
    end(keeper)


async def test_what_the_command_has_stopped_stays_stopped(keeping: tuple[Talk, SlotReader]) -> None:
    """Resuming lets go on what the pause has stopped, and nothing else."""
    keeper, _ = keeping
    start(keeper, 1, "sleep 601 & kill -STOP $!; sleep 602 & wait")

    def stopped() -> int:
        return sum(process.is_stopped for process in tree(keeper))

    await until(lambda: (len(tree(keeper)), stopped()) == (3, 1))
    ask(keeper, "pause")
    await until(lambda: stopped() == 3)
    ask(keeper, "resume")
    await until(lambda: stopped() == 1)
    end(keeper)


async def test_what_is_let_go_on_while_it_is_paused_goes_on_at_its_end(keeping: tuple[Talk, SlotReader]) -> None:
    """What was stopped before the pause, and sent SIGCONT during it, would run: the pause is what has stopped it."""
    keeper, _ = keeping
    start(keeper, 1, "sleep 601 & kill -STOP $!; sleep 602 & wait")
    await until(lambda: len(tree(keeper)) == 3 and any(process.is_stopped for process in tree(keeper)))
    (stopped,) = (process.pid for process in tree(keeper) if process.is_stopped)
    ask(keeper, "pause")
    await until(lambda: all_stopped(keeper))
    os.kill(stopped, signal.SIGCONT)
    await until(lambda: all_stopped(keeper), what="it is stopped again")  # it runs once kill(2) has returned
    ask(keeper, "resume")
    await until(lambda: not any(process.is_stopped for process in tree(keeper)))
    end(keeper)


def test_a_shell_with_job_control_does_not_notice(keeping: tuple[Talk, SlotReader]) -> None:
    """The shell of a terminal does not see its child stop, so it goes on waiting for it."""
    keeper, slot = keeping
    start(keeper, 1, "", argv=["/bin/bash", "-c", "set -m; cat; echo status $?"], tty=[24, 80], stream=True)
    for _ in range(10):
        ask(keeper, "pause")
        ask(keeper, "resume")
    assert give(keeper, b"line\n", end=True) == (5, None)
    while keeper.receive()["say"] != "ended":
        pass
    assert ended(slot, 1)[1] == b"line\r\nstatus 0\r\n"


@pytest.mark.parametrize("how", ["cancel", "timeout", "SIGCONT"])
async def test_a_paused_command_ends_as_ever(keeping: tuple[Talk, SlotReader], how: str) -> None:
    """Its handler of SIGTERM runs at a cancel and at its timeout, which counts on; SIGCONT is a resume."""
    keeper, slot = keeping
    timeout = 0.5 if how == "timeout" else None
    start(keeper, 1, "trap 'echo term; exit 7' TERM; echo up; while :; do sleep 0.01; done", timeout=timeout)
    await until(lambda: (record := slot.find(1, "t")) and record.progress.get("stdout"))
    assert ask(keeper, "pause") == [("state", True), ("did", None)]
    if how == "cancel":
        keeper.send(do="cancel", job=1, token="t")
    elif how == "SIGCONT":
        keeper.send(do="signal", job=1, token="t", signum=signal.SIGCONT)
        keeper.send(do="signal", job=1, token="t", signum=signal.SIGTERM)
    first, last = keeper.receive(), keeper.receive()
    assert (first["say"], first["paused"], last["say"]) == ("state", False, "ended")
    record, output = ended(slot, 1)
    assert (record["exit_code"], b"term\n" in output) == (7, True)
    assert record["ending"] == {"cancel": "cancelled", "timeout": "timed_out", "SIGCONT": "exited"}[how]


async def test_what_a_killed_command_leaves_is_not_left_stopped(keeping: tuple[Talk, SlotReader]) -> None:
    """With leave_children, children of a command that was killed while it was paused go on."""
    keeper, _ = keeping
    start(keeper, 1, "(while :; do sleep 0.01; done) & echo $!; wait", leave_children=True)
    await until(lambda: len(tree(keeper)) > 1)
    ask(keeper, "pause")
    os.kill(tree(keeper)[0].pid, signal.SIGKILL)
    assert (keeper.receive()["paused"], keeper.receive()["say"]) == (False, "ended")
    (left, *_) = tree(keeper)
    await until(lambda: not any(process.is_stopped for process in tree(keeper)))
    os.kill(left.pid, signal.SIGKILL)


def test_what_does_not_run_is_not_paused(keeping: tuple[Talk, SlotReader]) -> None:
    """Without a command, and once it is being ended, a pause is refused."""
    keeper, _ = keeping
    assert ask(keeper, "pause") == [("did", "gone")]
    start(keeper, 1, "trap '' TERM; while :; do sleep 0.01; done", grace=0.3)
    keeper.send(do="cancel", job=1, token="t")
    assert ask(keeper, "pause") == [("did", "ending")]
    assert keeper.receive()["say"] == "ended"


def test_what_may_not_be_stopped_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of another user goes on, and does not occupy the keeper at each look."""
    other = next(each for each in process_tree.processes() if each.pid == os.getpid())
    monkeypatch.setattr(pause, "signal_groups", lambda *_: None)
    monkeypatch.setattr(pause, "send_signal", lambda *_: False)
    monkeypatch.setattr(pause, "_runs", lambda _: pytest.fail("it waited"))
    pause.Pause(lambda: [other], 0.0).end()


@pytest.fixture(scope="module")
def long_keeping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Talk]:
    """Yield a keeper that serves all examples."""
    server = ForkServer(tmp_path_factory.mktemp("pause") / "state")
    with kept(server) as (keeper, _):
        yield keeper
    server.end()


STEPS = st.lists(st.sampled_from(["pause", "resume", "spawn", "continue"]), max_size=8)


@pytest.mark.heavy
@settings(max_examples=12)
@given(steps=STEPS)
def test_any_order_of_steps_leaves_it_as_it_was_last_asked(long_keeping: Talk, steps: list[str]) -> None:
    """Whatever is done in whatever order: paused, all of it is stopped; not paused, nothing is."""
    keeper = long_keeping
    start(keeper, 1, "while read x; do sleep 600 & done; wait", stream=True)
    paused = False
    for step in steps:
        match step:
            case "spawn":
                assert give(keeper, b"x\n")[1] is None
            case "continue":
                keeper.send(do="signal", job=1, token="t", signum=signal.SIGCONT, to="tree")
                expected = [("state", False), ("did", "no terminal")] if paused else [("did", "no terminal")]
                assert ask(keeper, "resize", rows=1, columns=1) == expected
                paused = False
            case _:
                ask(keeper, step)
                paused = step == "pause"
        asyncio.run(until(partial(is_as_expected, keeper, paused=paused)))
    end(keeper)


def is_as_expected(keeper: Talk, *, paused: bool) -> bool:
    """Return whether all is stopped, or nothing."""
    return all_stopped(keeper) if paused else not any(process.is_stopped for process in tree(keeper))


# Through the service ----------------------------------------------------------------------------------------------


async def post(service: Service, job: int, verb: str) -> Any:
    """POST to the job; return (status, body)."""
    status, _, body = await service.ask("POST", f"/api/jobs/{job}/{verb}")
    return status, body


async def test_a_job_is_paused_and_resumed(tmp_path: Path) -> None:
    """202 with the status, which followers have as an event; 409 unless it runs; a cancel ends a paused job."""
    async with InProcess(tmp_path / "state") as service:
        job = await service.submit("exec sleep 600")
        keeper = await service.running(job)
        async with service.session.get(f"{service.url}/api/statuses/events") as response:
            for verb, paused in (("pause", True), ("pause", True), ("resume", False), ("resume", False)):
                code, answer = await post(service, job, verb)
                assert (code, answer["paused"], answer["state"]) == (202, paused, "running")
                assert (await service.status(job))["paused"] is paused
            async with asyncio.timeout(10):
                seen = []
                async for event in parse(response.content):
                    seen.append(event.data["paused"])
                    if not seen[-1]:
                        break
            assert seen in ([True, False], [False]), "the two changes may be read together"
        assert (await post(service, job, "pause"))[0] == 202
        await until(lambda: all(process.is_stopped for process in process_tree.living(keeper.pid)))
        assert (await post(service, job, "cancel"))[0] == 202
        assert (await service.result(job))["ending"] == "cancelled"
        assert (await service.status(job))["paused"] is False
        for verb in ("pause", "resume"):
            code, answer = await post(service, job, verb)
            assert (code, answer["type"]) == (409, "/problems/not-running")


@pytest.mark.heavy
async def test_after_a_restart_a_job_is_as_paused_as_it_is(service: Service) -> None:
    """A server that was killed and started again says of each job whether it is paused, and resumes it."""
    paused, running = [await service.submit("read x; exit 5", stdin={"stream": True}) for _ in range(2)]
    for job in (paused, running):
        await service.running(job)
        assert (await post(service, job, "pause"))[0] == 202
    assert (await post(service, running, "resume"))[0] == 202
    await service.restart()

    async def known() -> list[Any]:
        states = [(await service.status(job))["paused"] for job in (paused, running)]
        assert states[0] in (True, None), "what is not known yet is null"
        return states if None not in states else []

    assert await until(known) == [True, False]
    assert (await post(service, paused, "resume"))[1]["paused"] is False
    for job in (paused, running):
        assert (await service.ask("POST", f"/api/jobs/{job}/stdin?end=true", data=b"x\n"))[0] == 204
        assert (await service.result(job))["exit_code"] == 5
