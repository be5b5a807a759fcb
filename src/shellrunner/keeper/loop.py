"""One keeper: waits for a command to keep, keeps it, records its end, waits for the next.

A process of one thread around one poll(2). It outlives the server that it works for, and decides alone: timeout,
output limit and the end of the tree need nobody's help. Must not know HTTP, SQL, or why a command is run.

Everything the server may have missed is in the slot; the messages only say "look there".
"""

import math
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from . import command, process_tree
from .message_socket import MessageSocket
from .protocol import PROTOCOL, Message
from .recorder import Recorder
from .running import CHUNK_SIZE, LINGER, RunningCommand
from .slot import SlotWriter
from .stdin_buffer import StdinBuffer

_NAP = 86_400.0  # seconds; poll(2) counts milliseconds in an int
_SHORT = 1.0  # seconds after which a command may have left orphans worth reaping while it runs
_GONE = {"offset": None, "refused": "gone"}
_LONELY = 5.0  # seconds a keeper waits for the server that had it made


class Keeper:
    """The poll loop, and what it holds: a connection, and perhaps a command."""

    def __init__(self, state: int, slot: SlotWriter, listener: socket.socket, hello: dict[str, Any]) -> None:
        """Keep what is said on `listener`; `state` is the state directory's descriptor, `hello` who this is."""
        self._state, self._slot, self._listener, self._hello = state, slot, listener, hello
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._server: MessageSocket | None = None
        self._kept: RunningCommand | None = None
        self._retiring = False
        self._over = False
        self._wakeup: tuple[socket.socket, socket.socket] | None = None
        self._watch(listener.fileno(), self._accept)

    def run(self) -> None:
        """Work until there is nobody to work for and nothing to keep."""
        lonely = time.monotonic() + _LONELY
        while not self._over:
            self._wait(self._due(lonely))
            if self._kept:
                self._kept.look_at_the_clock()
            if self._kept and not self._wakeup and time.monotonic() > self._kept.started.clock + _SHORT:
                self._listen_to_children()
            if not (self._kept or self._server or self._retiring) and time.monotonic() > lonely:
                self._over = True

    def _due(self, lonely: float) -> float | None:
        if self._kept is None:
            return None if self._server or self._retiring else lonely
        due = self._kept.next_look()
        return due if self._wakeup else min(due or math.inf, self._kept.started.clock + _SHORT)

    def _wait(self, due: float | None) -> None:
        pause = None if due is None else min(max(0.0, due - time.monotonic()), _NAP) * 1000 + 1
        ready = {descriptor for descriptor, _ in self._poll.poll(pause)}
        # The server's words before anything else: what it said before it died still counts.
        for descriptor in [d for d in self._handlers if d in ready]:
            if descriptor in self._handlers:
                self._handlers[descriptor]()

    def _watch(self, descriptor: int, handler: Callable[[], None], events: int = select.POLLIN) -> None:
        self._handlers[descriptor] = handler
        self._poll.register(descriptor, events)

    def _forget(self, descriptor: int) -> None:
        del self._handlers[descriptor]
        self._poll.unregister(descriptor)

    # The server ------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        if self._server:
            self._hear()  # whatever an earlier server still said
        if self._server:
            self._hang_up()
        self._server = MessageSocket(connection)
        self._watch(connection.fileno(), self._attend)
        kept = self._kept
        self._say(say="hello", protocol=PROTOCOL, **self._hello, job=kept and kept.job, token=kept and kept.token)

    def _attend(self) -> None:
        if self._server:
            self._server.flush()
            self._poll.modify(self._server.fileno(), self._server.events)
        self._hear()

    def _hear(self) -> None:
        try:
            while self._server and (messages := self._server.hear()) is not None:
                for message in messages:
                    self._obey(message)
        except EOFError:
            self._hang_up()
            self._over = self._over or (self._kept is None and not self._retiring)

    def _hang_up(self) -> None:
        if self._server:
            self._forget(self._server.fileno())
            self._server.close()
            self._server = None

    def _say(self, **message: Any) -> None:
        if self._server:
            self._server.say(message)
            self._poll.modify(self._server.fileno(), self._server.events)

    def _obey(self, message: Message) -> None:
        kept = self._kept
        match message["do"]:
            case "start" if kept is None and not self._retiring:
                self._start(message)
            case "cancel" if kept and kept.is_about(message):
                kept.end("cancelled")
            case "signal" if kept and kept.is_about(message):
                kept.signal(message["signum"])
            case "input":
                self._take(message)

    def _take(self, message: Message) -> None:
        kept = self._kept if self._kept and self._kept.is_about(message) else None
        taken = kept.give(message) if kept else _GONE
        self._say(say="took", job=message["job"], token=message["token"], **taken)
        if kept and kept.started.input:
            self._feed(kept.started.input)

    # The command -----------------------------------------------------------------------------------------------

    def _start(self, message: Message) -> None:
        job, token, attempt = message["job"], message["token"], message.get("attempt", 1)
        later = {} if attempt == 1 else {"attempt": attempt}
        self._slot.begin({"job": job, "token": token, "wall": time.time_ns() // 1_000_000, **later})
        recorder = Recorder(self._slot, self._state, job, token, message["output_bytes"], attempt=attempt)
        try:
            started = command.start(message, self._state)
        except command.CannotStart as error:
            end = {"ending": "failed_to_start", "detail": str(error), "wall": time.time_ns() // 1_000_000}
            self._slot.end({**recorder.progress(), **end})
            self._say(say="ended", job=job, token=token, retiring=False)
            return
        self._kept = kept = RunningCommand(message, started, recorder)
        self._watch(started.pidfd, lambda: self._ended(kept))
        for stream, pipe in enumerate(started.pipes):
            self._watch(pipe, lambda stream=stream, pipe=pipe: self._copy(stream, pipe))  # type: ignore[misc]
        kept.open_pipes = set(started.pipes)
        if started.input:
            self._feed(started.input)

    def _feed(self, source: StdinBuffer) -> None:
        """Write what the command has room for, and be woken up once it has room for more."""
        sink = source.sink
        source.write()
        if source.waiting and sink not in self._handlers:
            self._watch(sink, lambda: self._feed(source), select.POLLOUT)
        elif sink in self._handlers and not source.waiting:
            self._forget(sink)

    def _stop_feeding(self, source: StdinBuffer) -> None:
        if source.sink in self._handlers:
            self._forget(source.sink)
        source.is_open = False
        source.close()

    def _copy(self, stream: int, pipe: int) -> None:
        try:
            data = os.read(pipe, CHUNK_SIZE)
        except BlockingIOError:
            return
        except OSError:  # EIO: nobody has the terminal open any more
            data = b""
        if not data:
            self._close_pipe(pipe)
        elif self._kept:
            self._kept.take(stream, data)

    def _close_pipe(self, pipe: int) -> None:
        self._forget(pipe)
        os.close(pipe)
        if self._kept:
            self._kept.open_pipes.discard(pipe)

    def _ended(self, kept: RunningCommand) -> None:
        self._forget(kept.started.pidfd)
        if kept.started.input:
            self._stop_feeding(kept.started.input)
        kept.drain()
        kept.over = kept.due = time.monotonic()
        kept.wall_over = time.time_ns() // 1_000_000
        kept.settle = lambda: self._settle(kept)
        self._settle(kept)

    def _settle(self, kept: RunningCommand) -> None:
        # A tree that was asked to end (TERM) may use its grace although the command itself is gone.
        if kept.cause and kept.grace_left() and process_tree.group_lives(kept.started.pid):
            return
        if kept.can_be_reaped():
            self._finish(kept)
        elif not kept.leaves:
            process_tree.kill()

    def _finish(self, kept: RunningCommand) -> None:
        if not kept.leaves:
            # The command is not reaped yet, so this group is still its own, and whoever forks in it is caught.
            with suppress(OSError):
                os.killpg(kept.started.pid, signal.SIGKILL)
        _, status, usage = os.wait4(kept.started.pid, 0)
        os.close(kept.started.pidfd)
        survivors: list[str] = []
        if not process_tree.reap():
            self._retiring = kept.leaves or self._retiring
            survivors = [] if kept.leaves else process_tree.sweep(LINGER)
            self._retiring = self._retiring or bool(survivors)
        self._record(kept, status, usage, survivors)

    def _record(self, kept: RunningCommand, status: int, usage: resource.struct_rusage, survivors: list[str]) -> None:
        remarks = [f"still running after {LINGER:g} s: {', '.join(survivors)}"] if survivors else []
        try:
            kept.recorder.sync()
        except OSError as error:  # what was witnessed is recorded all the same
            remarks.append(f"its output may not outlive a power failure: {error.strerror}")
        kept.recorder.close()
        self._slot.end({**kept.recorder.progress(), **kept.witnessed(status, usage, "; ".join(remarks) or None)})
        self._kept = None
        if self._retiring:
            self._drain_from_now_on()
        else:
            self._listen_no_more()
            for pipe in kept.open_pipes:
                self._close_pipe(pipe)
            self._over = self._server is None
        self._say(say="ended", job=kept.job, token=kept.token, retiring=self._retiring)

    # Afterwards ------------------------------------------------------------------------------------------------

    def _drain_from_now_on(self) -> None:
        """Stay until every child is gone: read and throw away what they write, so that they do not die of it.

        It must not exit before them: they would become the fork server's, which ends what has no keeper.
        """
        self._listen_to_children()
        self._over = process_tree.reap()  # the last one may have gone before anybody listened

    # Children --------------------------------------------------------------------------------------------------

    def _listen_to_children(self) -> None:
        """Wake up when a child ends, to reap the orphans of a command that runs for long.

        A short one is not worth it: its own end would wake the keeper twice.
        """
        if self._wakeup:
            return
        self._wakeup = reading, writing = socket.socketpair()
        reading.setblocking(False)
        writing.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        self._watch(reading.fileno(), self._child_ended)
        self._reap_orphans()

    def _listen_no_more(self) -> None:
        if self._wakeup:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._forget(self._wakeup[0].fileno())
            for end in self._wakeup:
                end.close()
            self._wakeup = None

    def _child_ended(self) -> None:
        if self._wakeup:
            with suppress(BlockingIOError):
                self._wakeup[0].recv(4096)
        if self._kept:
            self._reap_orphans()
        else:
            self._over = self._over or process_tree.reap()

    def _reap_orphans(self) -> None:
        """Reap what has ended, but not the command itself: its status is what all this is for."""
        with suppress(ChildProcessError):
            while self._kept and (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)):
                if ended.si_pid == self._kept.started.pid:
                    return
                os.waitpid(ended.si_pid, 0)
