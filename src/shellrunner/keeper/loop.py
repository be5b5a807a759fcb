"""A keeper: runs one command after another, stores their output, and records how they ended.

A process of one thread around one poll(2). It outlives the server that it works for, and decides alone: timeout,
output limit and the end of the tree need no server. Must not know HTTP, SQL, or why a command is run.

Everything that a server may have missed is in the slot; the messages only say "look there".

      listener ──> connection ──> messages: start, cancel, signal, input
                                     │ start
                                     v
     pipes ──> output ──> slot    RunningCommand <── deadlines: timeout, kill after the grace
     SIGCHLD (after 1 s) ──> reap orphans   │ pidfd: the command has ended
                                            v
                       drain the pipes, close stdin, settle: status available, grace over?
                                            v
                       kill and reap the tree, write the end into the slot, send "ended"
                                            │
                next message <── idle ──────┴── children left behind: retire, exit after the last of them

An idle keeper exits when its connection ends, a busy one after its command.
"""

import math
import os
import resource
import select
import signal
import socket
import time
from contextlib import suppress
from typing import Any

from . import command, process_tree, reported_endings
from .child_signals import ChildSignals
from .message_socket import MessageSocket
from .poller import Poller
from .protocol import PROTOCOL, Message
from .recorder import Recorder
from .running import CHUNK_SIZE, RunningCommand
from .slot import SlotWriter
from .stdin_buffer import StdinBuffer

_REAP_TIMEOUT = 1.0  # seconds that children left behind have to be gone
_REAP_AFTER = 1.0  # seconds after which a command may have left orphans worth reaping while it runs
_CONNECT_TIMEOUT = 5.0  # seconds that a new keeper waits for the server that had it forked
_ACCEPT_RETRY_DELAY = 0.2  # seconds
_GONE = {"offset": None, "refused": "gone"}


class Keeper:
    """The poll loop, and what it holds: a connection, and perhaps a command."""

    def __init__(
        self, state: int, slot: SlotWriter, listener: socket.socket, hello: dict[str, Any], let_go: socket.socket
    ) -> None:
        """Serve connections to `listener`, a nonblocking socket.

        Args:
            state: the state directory's descriptor.
            slot: where what happens to commands is recorded.
            listener: where servers connect.
            hello: introduces this keeper to them.
            let_go: the channel on which children that may stay are handed over to the fork server.
        """
        self._state, self._slot, self._listener, self._hello = state, slot, listener, hello
        self._let_go = let_go
        self._poller = Poller()
        self._server: MessageSocket | None = None
        self._running: RunningCommand | None = None
        self._child_signals: ChildSignals | None = None
        self._retiring = False  # takes no further command, and exits once its last child has
        self._finished = False
        self._poller.watch(listener.fileno(), self._accept)

    def run(self) -> None:
        """Loop until there is neither a server to work for nor a command to keep."""
        connect_deadline = time.monotonic() + _CONNECT_TIMEOUT
        while not self._finished:
            self._poller.run_once(self._next_deadline(connect_deadline))
            running = self._running
            if running:
                self._handle_deadlines(running)
            elif not (self._server or self._retiring) and time.monotonic() > connect_deadline:
                self._finished = True

    def _next_deadline(self, connect_deadline: float) -> float | None:
        running = self._running
        if running is None:
            return None if self._server or self._retiring else connect_deadline
        deadline = running.next_deadline()
        return deadline if self._child_signals else min(deadline or math.inf, running.command.clock + _REAP_AFTER)

    def _handle_deadlines(self, running: RunningCommand) -> None:
        now = time.monotonic()
        running.handle_stdin_deadline(now)
        if running.is_due(now):
            if running.ended_at is None:
                running.handle_deadline(now)
            else:
                running.poll_again(now)
                self._settle(running)
        if self._running and not self._child_signals and now > running.command.clock + _REAP_AFTER:
            self._watch_children()

    # The server ------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:  # no descriptors left, for example: the server stays in the queue
            self._poller.pause(self._listener.fileno(), _ACCEPT_RETRY_DELAY)
            return
        if self._server:
            self._receive()  # what an earlier server sent before this one connected
        if self._server:
            self._disconnect()
        self._server = MessageSocket(connection)
        self._poller.watch(connection.fileno(), self._handle_server)
        running = self._running
        job, token = (running.job, running.token) if running else (None, None)
        self._send(say="hello", protocol=PROTOCOL, **self._hello, job=job, token=token)

    def _handle_server(self) -> None:
        if self._server:
            self._server.flush()
            self._poller.modify(self._server.fileno(), self._server.events)
        self._receive()

    def _receive(self) -> None:
        try:
            while self._server and (messages := self._server.receive()) is not None:
                for message in messages:
                    self._handle_message(message)
        except EOFError:
            self._disconnect()
            self._finished = self._finished or (self._running is None and not self._retiring)

    def _disconnect(self) -> None:
        if self._server:
            self._poller.unwatch(self._server.fileno())
            self._server.close()
            self._server = None

    def _send(self, **message: Any) -> None:
        if self._server:
            self._server.send(message)
            self._poller.modify(self._server.fileno(), self._server.events)

    def _handle_message(self, message: Message) -> None:
        running = self._running
        match message["do"]:
            case "start" if running is None and not self._retiring:
                self._start(message)
            case "cancel" if running and running.matches(message):
                running.terminate(reported_endings.CANCELLED)
            case "signal" if running and running.matches(message):
                running.send_signal(message["signum"])
            case "input":
                self._accept_input(message)

    def _accept_input(self, message: Message) -> None:
        running = self._running if self._running and self._running.matches(message) else None
        answer = running.accept_input(message) if running else _GONE
        self._send(say="took", job=message["job"], token=message["token"], **answer)
        if running and running.command.stdin:
            self._write_stdin(running.command.stdin)

    # The command -----------------------------------------------------------------------------------------------

    def _start(self, message: Message) -> None:
        job, token, attempt = message["job"], message["token"], message.get("attempt", 1)
        later = {} if attempt == 1 else {"attempt": attempt}
        self._slot.begin({"job": job, "token": token, "wall": time.time_ns() // 1_000_000, **later})
        recorder = Recorder(self._slot, self._state, job, token, message["output_bytes"], attempt=attempt)
        try:
            started = command.start(message)
        except command.CannotStart as error:
            end = {"ending": reported_endings.FAILED_TO_START, "detail": str(error)}
            self._slot.end({**recorder.progress(), **end, "wall": time.time_ns() // 1_000_000})
            self._send(say="ended", job=job, token=token, retiring=False)
            return
        self._running = running = RunningCommand(message, started, recorder)
        if started.pidfd >= 0:
            self._poller.watch(started.pidfd, lambda: self._handle_exit(running))
        else:
            self._poller.watch_clock("exit", lambda: self._handle_exit(running))
        for stream, pipe in enumerate(started.pipes):
            self._poller.watch(pipe, lambda stream=stream, pipe=pipe: self._read_output(stream, pipe))  # type: ignore[misc]
        running.open_pipes = set(started.pipes)
        if started.stdin:
            self._write_stdin(started.stdin)

    def _write_stdin(self, stdin: StdinBuffer) -> None:
        """Write as much as fits, and be woken up once more fits."""
        sink = stdin.sink
        stdin.write()
        if stdin.has_pending and sink not in self._poller:
            self._poller.watch(sink, lambda: self._write_stdin(stdin), select.POLLOUT)
        elif sink in self._poller and not stdin.has_pending:
            self._poller.unwatch(sink)

    def _close_stdin(self, stdin: StdinBuffer) -> None:
        if stdin.sink in self._poller:
            self._poller.unwatch(stdin.sink)
        stdin.is_open = False
        stdin.close()

    def _read_output(self, stream: int, pipe: int) -> None:
        try:
            data = os.read(pipe, CHUNK_SIZE)
        except BlockingIOError:
            return
        except OSError:  # EIO: no process has the terminal open any more
            data = b""
        if not data:
            self._close_pipe(pipe)
        elif self._running:
            self._running.store_output(stream, data)

    def _close_pipe(self, pipe: int) -> None:
        self._poller.unwatch(pipe)
        os.close(pipe)
        if self._running:
            self._running.open_pipes.discard(pipe)

    # The end ---------------------------------------------------------------------------------------------------

    def _handle_exit(self, running: RunningCommand) -> None:
        if not running.can_be_reaped() and (running.command.pidfd < 0 or self._poller.is_guessing):
            return
        if running.command.pidfd >= 0:
            self._poller.unwatch(running.command.pidfd)
        self._poller.unwatch_clock("exit")
        if running.command.stdin:
            self._close_stdin(running.command.stdin)
        running.drain_pipes()
        running.note_exit()
        self._settle(running)

    def _settle(self, running: RunningCommand) -> None:
        """Finish the command if its status can be had and its grace is over; else this is called again soon."""
        # The command's process group may use its grace although the command itself is gone; processes outside the
        # group are killed at once.
        if running.cause and running.has_grace_left() and process_tree.group_lives(running.command.pid):
            return
        if running.can_be_reaped():
            self._finish(running)
        elif not running.leaves_children:
            process_tree.kill()

    def _finish(self, running: RunningCommand) -> None:
        if not running.leaves_children:
            # The command is not reaped yet, so this group is still its own, and every process forked in it is hit.
            with suppress(OSError):
                os.killpg(running.command.pid, signal.SIGKILL)
        _, status, usage = os.wait4(running.command.pid, 0)
        if running.command.pidfd >= 0:
            with suppress(OSError):
                os.close(running.command.pidfd)
        survivors: list[str] = []
        if not process_tree.reap():
            self._retiring = running.leaves_children or self._retiring
            survivors = [] if running.leaves_children else process_tree.sweep(_REAP_TIMEOUT)
            self._retiring = self._retiring or bool(survivors)
        self._record_end(running, status, usage, survivors)

    def _record_end(
        self, running: RunningCommand, status: int, usage: resource.struct_rusage, survivors: list[str]
    ) -> None:
        remarks = [f"still running after {_REAP_TIMEOUT:g} s: {', '.join(survivors)}"] if survivors else []
        try:
            running.recorder.sync()
        except OSError as error:  # what was witnessed is recorded all the same
            remarks.append(f"its output may not survive a power failure: {error.strerror}")
        running.recorder.close()
        self._slot.end(
            {**running.recorder.progress(), **running.end_record(status, usage, "; ".join(remarks) or None)}
        )
        self._running = None
        if self._retiring:
            self._retire()
        else:
            self._ignore_children()
            for pipe in running.open_pipes:
                self._close_pipe(pipe)
            self._finished = self._server is None
        self._send(say="ended", job=running.job, token=running.token, retiring=self._retiring)

    # Children --------------------------------------------------------------------------------------------------

    def _retire(self) -> None:
        """Stay until every child is gone; read and discard what they write, so that they do not die of SIGPIPE.

        The keeper must not exit before them: they would become the fork server's, which kills what has no keeper.
        """
        self._watch_children()
        self._finished = process_tree.reap()  # the last one may have exited before SIGCHLD was handled

    def _watch_children(self) -> None:
        """Wake up when a child ends, to reap the orphans of a command that runs for long.

        A short one is not worth it: its own end would wake the keeper twice.
        """
        if self._child_signals is None:
            self._child_signals = ChildSignals(self._poller, self._handle_child)
            self._reap_orphans()

    def _ignore_children(self) -> None:
        if self._child_signals:
            self._child_signals.close()
            self._child_signals = None

    def _handle_child(self) -> None:
        if self._running:
            self._reap_orphans()
        else:
            self._finished = self._finished or process_tree.reap()

    def _reap_orphans(self) -> None:
        """Reap the children that have ended, but not the command itself, whose status is still needed."""
        with suppress(ChildProcessError):
            while self._running and (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)):
                if ended.si_pid == self._running.command.pid:
                    return
                os.waitpid(ended.si_pid, 0)
