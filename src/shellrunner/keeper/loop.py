"""A keeper: runs one command after another, stores their output, and records how they ended.

A process of one thread around one poll(2). It outlives the server that it works for, and decides alone: timeout,
output limit and the end of the tree need no server. Must not know HTTP, SQL, or why a command is run.

Everything that a server may have missed is in the slot; the messages only say "look there".

      listener ──> connection ──> messages: start, cancel, signal, input
                                     │ start
                                     v
     pipes ──> output ──> slot    RunningCommand: runs <── deadlines: timeout, KILL after the grace
                                     │ pidfd: the command has ended; close stdin, reap: status, usage
                                     v
                                  settles: output is stored until nothing is left of it, or it was idle for 0.25 s,
                                     │     at most 1 s
                                     v
                                  terminates what is left: TERM and CONT, a grace, KILL; output is still stored
                                     │ SIGCHLD: the last child has ended, and the pipes are at their end
                                     v
                                  over: write the end into the slot, send "ended"
                                     │
         next message <── idle ──────┴── children left behind on request: retire, exit after the last of them

Most commands leave nothing: their pipes are at their end with them, and they are over at once. A cancel, the timeout
or the output limit terminate the whole tree in the same way, while the command runs; it does not settle then. An idle
keeper exits when its connection ends, a busy one after its command.
"""

import math
import os
import select
import socket
import time
from contextlib import suppress
from typing import Any

from . import command, reported_endings
from .child_signals import ChildSignals
from .message_socket import MessageSocket
from .poller import Poller
from .protocol import PROTOCOL, Message
from .recorder import Recorder
from .running import RunningCommand
from .slot import SlotWriter
from .stdin_buffer import StdinBuffer

_REAP_AFTER = 1.0  # seconds after which a command may have left orphans worth reaping while it runs
_CHUNK_SIZE = 65_536  # bytes read from a pipe at once: what a pipe holds
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
        self._reap_at = math.inf  # when to reap children of a command that runs for long
        self._retiring = False  # takes no further command, and exits once its last child has
        self._finished = False
        self._poller.watch(listener.fileno(), self._accept)

    def run(self) -> None:
        """Loop until there is neither a server to work for nor a command to keep."""
        connect_deadline = time.monotonic() + _CONNECT_TIMEOUT
        while not self._finished:
            self._poller.run_once(self._next_deadline(connect_deadline))
            if self._running:
                self._advance(self._running)
            elif self._retiring:
                self._advance_retirement()
            elif not self._server and time.monotonic() > connect_deadline:
                self._finished = True

    def _next_deadline(self, connect_deadline: float) -> float | None:
        if self._running:
            deadline = self._running.next_deadline()
        else:
            deadline = math.inf if self._server or self._retiring else connect_deadline
        if not self._child_signals:
            deadline = min(deadline, self._reap_at)
        return None if deadline == math.inf else deadline

    def _advance(self, running: RunningCommand) -> None:
        """Do what is due; finish the command if it is over."""
        now = time.monotonic()
        if not running.is_over(now):
            running.handle_deadlines(now)
            if running.needs_child_signals:
                self._reap_at = min(self._reap_at, now)
            if now >= self._reap_at and not self._child_signals:
                self._watch_children()
                running.reap()
        if running.is_over(now):
            self._finish(running)

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
                running.send_signal(message["signum"], to_tree=message.get("to") == "tree")
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
        recorder.publish_pid(started.pid)
        self._running = running = RunningCommand(message, started, recorder)
        self._reap_at = started.clock + _REAP_AFTER
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
            data = os.read(pipe, _CHUNK_SIZE)
        except BlockingIOError:
            return
        except OSError:
            # EIO: no process has the terminal open any more, and what was on its way through the kernel has arrived
            # (`n_tty_read` flushes it first, since Linux 4.7).
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
        """Note the command's own end; what its pipes hold is read in this round too, as they are ready with it."""
        if (running.command.pidfd < 0 or self._poller.is_guessing) and not running.has_ended():
            return
        if running.command.pidfd >= 0:
            self._poller.unwatch(running.command.pidfd)
        self._poller.unwatch_clock("exit")
        running.note_exit()
        running.reap()
        running.recorder.withdraw_pid(now=not running.tree_is_gone)
        if running.command.stdin:
            self._close_stdin(running.command.stdin)

    def _finish(self, running: RunningCommand) -> None:
        if running.command.pidfd >= 0:
            with suppress(OSError):
                os.close(running.command.pidfd)
        remarks = running.survivors()
        try:
            running.recorder.sync()
        except OSError as error:  # what was witnessed is recorded all the same
            remarks.append(f"its output may not survive a power failure: {error.strerror}")
        running.recorder.close()
        detail = "; ".join(remarks) or None
        self._slot.end({**running.recorder.progress(), **running.end_record(), "detail": detail})
        self._running = None
        self._reap_at = math.inf
        if running.tree_is_gone:
            self._ignore_children()
            for pipe in list(running.open_pipes):
                self._close_pipe(pipe)
            self._finished = self._server is None
        else:
            self._retire()
        self._send(say="ended", job=running.job, token=running.token, retiring=self._retiring)

    # Children --------------------------------------------------------------------------------------------------

    def _retire(self) -> None:
        """Stay until every child is gone; read and discard what they write, so that they do not die of SIGPIPE.

        The keeper must not exit before them: they would become the fork server's, which kills what has no keeper.
        """
        self._retiring = True
        self._reap_at = time.monotonic()

    def _advance_retirement(self) -> None:
        if time.monotonic() >= self._reap_at and not self._child_signals:
            self._watch_children()
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            self._finished = True

    def _watch_children(self) -> None:
        """Wake up when a child ends, to reap it: one that was left behind, or an orphan while the command runs.

        A short command without children is not worth it: its own end would wake the keeper twice.
        """
        self._child_signals = ChildSignals(self._poller, self._handle_child)

    def _ignore_children(self) -> None:
        if self._child_signals:
            self._child_signals.close()
            self._child_signals = None

    def _handle_child(self) -> None:
        if self._running:
            self._running.reap()
