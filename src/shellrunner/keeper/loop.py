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

No failing call may end a keeper that has a command. Where there is no descriptor to wait on, it looks from time to
time; an end that the disk does not take is sent in the message and kept until it is written or recorded; a connection
on which nothing can be sent is closed, so that the server looks into the slot. Even a bug, an exception that is not
handled where it occurs, does not end the keeper while the command runs, but only after it has failed to finish.
"""

import errno
import math
import os
import select
import socket
import sys
import time
from contextlib import suppress
from typing import Any

from . import command, process_tree
from .message_socket import MessageSocket
from .poller import Poller
from .process_tree import let_go
from .process_tree.child_signals import ChildSignals
from .process_tree.termination import end_tree
from .protocol import PROTOCOL, Message
from .recorder import Recorder
from .running import RunningCommand
from .slot import ReportedEnding, SlotWriter
from .stdin_buffer import StdinBuffer
from .stdio import close

_SHOW_PID_AFTER = 0.005  # seconds after which a command's pid is worth showing: most have ended by then
_REAP_AFTER = 1.0  # seconds after which a command may have left orphans worth reaping while it runs
_CHUNK_SIZE = 65_536  # bytes read from a pipe at once: what a pipe holds
_MAX_LAST_READS = 64  # of each pipe; a terminal holds some 20 KB, and a read returns at most 4,095 bytes of it
_CONNECT_TIMEOUT = 5.0  # seconds that a new keeper waits for the server that had it forked
_ACCEPT_RETRY_DELAY = 0.2  # seconds
_READ_RETRY_DELAY = 0.05  # seconds
_WRITE_RETRY_DELAY = 1.0  # seconds between attempts to write an end that the disk did not take
_KILL_INTERVAL = 0.5  # seconds between attempts to kill what has survived its command
_MAX_BUGS = 20  # exceptions after which a keeper exits whose command has ended
_BUG_PAUSE = 0.05  # seconds
_GONE = {"offset": None, "refused": "gone"}


class Keeper:
    """The poll loop, and what it holds: a connection, and perhaps a command."""

    def __init__(
        self, state: int, slot: SlotWriter, listener: socket.socket, hello: dict[str, Any], channel: socket.socket
    ) -> None:
        """Serve connections to `listener`, a nonblocking socket.

        Args:
            state: the state directory's descriptor.
            slot: where what happens to commands is recorded.
            listener: where servers connect.
            hello: introduces this keeper to them.
            channel: where children that may stay are handed over to the fork server.
        """
        self._state, self._slot, self._listener, self._hello = state, slot, listener, hello
        self._channel = channel
        self._poller = Poller()
        self._server: MessageSocket | None = None
        self._running: RunningCommand | None = None
        self._child_signals: ChildSignals | None = None
        self._show_pid_at = math.inf  # when to show the command's pid
        self._reap_at = math.inf  # when to reap children of a command that runs for long
        self._retiring = False  # takes no further command, and exits once its last child has
        self._has_children = False  # while it retires
        self._kill_at = math.inf  # when to kill what has survived its command, again
        self._unwritten: Message | None = None  # an end that is not in the slot, and not known to be recorded
        self._write_at = math.inf  # when to try again to write it
        self._connect_deadline = time.monotonic() + _CONNECT_TIMEOUT
        self._bugs = 0
        self._poller.watch(listener.fileno(), self._accept)

    def run(self) -> None:
        """Loop until there is neither a server to work for nor a command to keep."""
        while not self._is_done():
            try:
                self._run_once()
            except Exception:  # noqa: BLE001  a bug, which must not end the command too
                self._handle_bug()

    def _run_once(self) -> None:
        self._poller.run_once(self._next_deadline())
        if self._running:
            self._advance(self._running)
        elif self._retiring:
            self._advance_retirement()
        if self._unwritten and time.monotonic() >= self._write_at:
            self._write_at = time.monotonic() + _WRITE_RETRY_DELAY
            if self._slot.write_ends():
                self._unwritten = None

    def _is_done(self) -> bool:
        if self._running or self._unwritten:
            return False
        if self._retiring:
            return not self._has_children
        return self._server is None and time.monotonic() > self._connect_deadline

    def _next_deadline(self) -> float | None:
        if self._running:
            deadline = min(self._running.next_deadline(), self._show_pid_at)
        elif self._retiring:
            deadline = self._kill_at
        else:
            deadline = math.inf if self._server else self._connect_deadline
        if not self._child_signals:
            deadline = min(deadline, self._reap_at)
        if self._unwritten:
            deadline = min(deadline, self._write_at)
        return None if deadline == math.inf else deadline

    def _handle_bug(self) -> None:
        """Log the exception, and go on where the command still runs; it may have left something undone.

        Raises:
            Exception: the same one, if there is no command, or it has ended and cannot be finished: then the server
                judges by the slot, and what is left of the tree is killed.
        """
        self._bugs += 1
        if self._bugs <= _MAX_BUGS:
            sys.__excepthook__(*sys.exc_info())  # `traceback` would be memory of every keeper
        running = self._running
        if running is None or (self._bugs > _MAX_BUGS and running.has_ended()):
            if self._kill_at < math.inf or not self._retiring:
                end_tree()
            raise  # noqa: PLE0704  the one that is being handled by `run`
        self._poller.watch_clock("exit", lambda: self._check_exit(running))
        time.sleep(_BUG_PAUSE)

    def _advance(self, running: RunningCommand) -> None:
        """Do what is due; finish the command if it is over."""
        self._report_state(running)
        now = time.monotonic()
        if not running.is_over(now):
            running.handle_deadlines(now)
            if now >= self._show_pid_at:
                self._show_pid_at = math.inf
                running.recorder.publish_pid(running.command.pid)
            if running.needs_child_signals:
                self._reap_at = min(self._reap_at, now)
            if now >= self._reap_at and not self._child_signals:
                self._watch_children()
                running.reap()
            if not running.is_over(now):
                if running.exit_is_known and not running.exit_is_recorded:
                    running.exit_is_recorded = True
                    self._slot.exit({**running.recorder.counts(), **running.end_record()})
                return
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
        self.work_for(connection)

    def work_for(self, connection: socket.socket) -> None:
        """Work for the server at the other end, and no more for an earlier one."""
        if self._server:
            self._receive(until_empty=True)  # what an earlier server sent before this one connected
        if self._server:
            self._disconnect()
        self._connect_deadline = 0.0
        self._server = MessageSocket(connection)
        self._poller.watch(connection.fileno(), self._handle_server)
        running, unwritten = self._running, self._unwritten
        job, token = (running.job, running.token) if running else (None, None)
        if unwritten and not running:
            job, token = unwritten["job"], unwritten["token"]
        state = running.state() if running else {}
        self._send(say="hello", protocol=PROTOCOL, **self._hello, job=job, token=token, **state)
        if unwritten:
            self._send(**unwritten)

    def _handle_server(self) -> None:
        if self._server:
            self._server.flush()
            self._poller.modify(self._server.fileno(), self._server.events)
        self._receive()

    def _receive(self, *, until_empty: bool = False) -> None:
        """Handle what one call receives: poll(2) returns again if there is more, or the connection has ended."""
        try:
            while self._server and (messages := self._server.receive()) is not None:
                for message in messages:
                    self._handle_message(message)
                if not until_empty:
                    break
        except (EOFError, ValueError):  # ValueError: this is not our protocol
            self._disconnect()

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
            case "start":
                self._handle_start(message)
            case "cancel" if running and running.matches(message):
                running.terminate(ReportedEnding.CANCELLED, kill_only=bool(message.get("kill_only")))
            case "signal" if running and running.matches(message):
                running.send_signal(message["signum"], to_tree=message.get("to") == "tree")
            case "input":
                self._accept_input(message)
            case "resize" | "pause" | "resume":
                self._control(message)
            case "recorded" if self._unwritten and self._is_about(self._unwritten, message):
                self._unwritten = None

    @staticmethod
    def _is_about(one: Message, other: Message) -> bool:
        return (one["job"], one["token"]) == (other["job"], other["token"])

    def _accept_input(self, message: Message) -> None:
        running = self._running if self._running and self._running.matches(message) else None
        answer = running.accept_input(message) if running else _GONE
        if running and running.command.stdin:
            self._write_stdin(running.command.stdin)  # before the answer wakes up the server: somebody may be typing
        self._send(say="took", job=message["job"], token=message["token"], **answer)

    def _control(self, message: Message) -> None:
        """Do what is asked with the command, and answer once it is done."""
        running = self._running if self._running and self._running.matches(message) else None
        refused = running.control(message) if running else "gone"
        if running:
            self._report_state(running)
        self._send(say="did", job=message["job"], token=message["token"], refused=refused)

    def _report_state(self, running: RunningCommand) -> None:
        if running.state_changed:
            self._send(say="state", job=running.job, token=running.token, **running.state())

    # The command -----------------------------------------------------------------------------------------------

    def _handle_start(self, message: Message) -> None:
        """Start the command, unless there is one: what is not started must be reported, or it would be waited for."""
        if self._running is None and not self._retiring:
            self._start(message)
        elif not (self._running and self._running.matches(message)):
            self._send(say="refused", job=message["job"], token=message["token"])

    def _start(self, message: Message) -> None:
        job, token, attempt = message["job"], message["token"], message.get("attempt", 1)
        recorder = Recorder(self._slot, self._state, job, token, message["output_bytes"], attempt=attempt)
        try:
            self._slot.begin({"job": job, "token": token, "wall": time.time_ns() // 1_000_000, "attempt": attempt})
        except OSError as error:
            end = _failed_to_start(recorder, f"its start could not be recorded: {error.strerror}")
            self._send(say="ended", job=job, token=token, retiring=False, end=end)
            return
        self._unwritten = None  # a server starts a command only once the end before it is recorded
        try:
            started = command.start(message)
        except command.CannotStart as error:
            self._report_end(job, token, _failed_to_start(recorder, str(error)))
            return
        self._running = running = RunningCommand(message, started, recorder)
        self._show_pid_at = started.clock + _SHOW_PID_AFTER
        self._reap_at = started.clock + _REAP_AFTER
        if started.pidfd >= 0:
            self._poller.watch(started.pidfd, lambda: self._handle_exit(running))
        else:
            self._poller.watch_clock("exit", lambda: self._check_exit(running))
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

    def _read_output(self, stream: int, pipe: int) -> bool:
        """Store what one read returns; return whether there was something."""
        try:
            data = os.read(pipe, _CHUNK_SIZE)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EIO or not os.isatty(pipe):
                self._poller.pause(pipe, _READ_RETRY_DELAY)
                return False
            # No process has the terminal open any more, and what was on its way through the kernel has arrived
            # (`n_tty_read` flushes it first, since Linux 4.7).
            data = b""
        if not data:
            self._close_pipe(pipe)
        elif self._running:
            self._running.store_output(stream, data)
        return bool(data)

    def _drain(self, running: RunningCommand) -> None:
        """Store what the pipes still hold: a cancel does not wait for it, and this process may have been stopped.

        Not without end: a process that is no descendant may go on writing.
        """
        for stream, pipe in enumerate(running.command.pipes):
            for _ in range(_MAX_LAST_READS):
                if pipe not in running.open_pipes or not self._read_output(stream, pipe):
                    break

    def _close_pipe(self, pipe: int) -> None:
        self._poller.unwatch(pipe)
        close(pipe)
        if self._running:
            self._running.open_pipes.discard(pipe)

    # The end ---------------------------------------------------------------------------------------------------

    def _handle_exit(self, running: RunningCommand) -> None:
        """Note the command's own end; what its pipes hold is read in this round too, as they are ready with it."""
        if self._poller.is_guessing and not running.has_ended():
            return
        if running.command.pidfd in self._poller:
            self._poller.unwatch(running.command.pidfd)
        self._poller.unwatch_clock("exit")
        self._show_pid_at = math.inf
        running.note_exit()
        running.reap()
        running.recorder.withdraw_pid(now=not running.tree_is_gone)
        if running.command.stdin:
            self._close_stdin(running.command.stdin)

    def _check_exit(self, running: RunningCommand) -> None:
        if running.ended_at is None and running.has_ended():
            self._handle_exit(running)

    def _finish(self, running: RunningCommand) -> None:
        if running.command.pidfd >= 0:
            close(running.command.pidfd)
        self._drain(running)
        remarks = running.survivors()
        try:
            running.recorder.sync()
        except OSError as error:  # what was witnessed is recorded all the same
            remarks.append(f"its output may not survive a power failure: {error.strerror}")
        running.recorder.close()
        detail = "; ".join(remarks) or None
        end = {**running.recorder.counts(), **running.end_record(), "detail": detail}
        self._running = None
        self._reap_at = math.inf
        if running.tree_is_gone:
            self._ignore_children()
            for pipe in list(running.open_pipes):
                self._close_pipe(pipe)
        else:
            self._retire(running)
        self._report_end(running.job, running.token, end)

    def _report_end(self, job: int, token: str, end: dict[str, Any]) -> None:
        """Write the end into the slot, and send that it is there; or the end itself, if it could not be written."""
        message = {"say": "ended", "job": job, "token": token, "retiring": self._retiring}
        if not self._slot.end(end):
            self._unwritten = message = {**message, "end": end}
            self._write_at = time.monotonic() + _WRITE_RETRY_DELAY
        self._send(**message)

    # Children --------------------------------------------------------------------------------------------------

    def _retire(self, running: RunningCommand) -> None:
        """Stay until every child is gone; read and discard what they write, so that they do not die of SIGPIPE.

        The keeper must not exit before them: they would become the fork server's, which kills what has no keeper,
        unless it was handed over. What could not be killed is no longer waited for, but is killed as soon as it can.
        """
        self._retiring = self._has_children = True
        self._reap_at = time.monotonic()
        if running.leaves_children:
            let_go.hand_over(self._channel, sorted(running.open_pipes))
        else:
            self._kill_at = time.monotonic() + _KILL_INTERVAL

    def _advance_retirement(self) -> None:
        if time.monotonic() >= self._reap_at and not self._child_signals:
            self._watch_children()
        if time.monotonic() >= self._kill_at:
            self._kill_at = time.monotonic() + _KILL_INTERVAL
            with suppress(OSError):
                process_tree.kill()
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            self._has_children = False
        except OSError:
            time.sleep(_BUG_PAUSE)
            self._poller.watch_clock("retirement", lambda: None)  # it is tried again

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


def _failed_to_start(recorder: Recorder, detail: str) -> dict[str, Any]:
    wall = time.time_ns() // 1_000_000
    return {**recorder.counts(), "ending": ReportedEnding.FAILED_TO_START, "detail": detail, "wall": wall}
