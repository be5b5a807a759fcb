"""A running command: its deadlines, why it is being terminated if it is, and the record of its end.

Owned by the keeper's loop, one per job. Must not know the connection to the server, or the slot.

    runs ──────────> settles ────────────> terminates ──> over
     │   its own       children or pipes    what it left     nothing of it is left
     │   end           are left: waits      behind
     │                 until it is quiet
     └──────────────────────────────────> terminates ──> over
         cancel, timeout, output limit      all of it
"""

import binascii
import math
import os
import resource
import signal
import time
from contextlib import suppress
from typing import Any

from . import process_tree
from .command import Command, decode_status
from .process_tree.leftovers import FoundLeftovers
from .process_tree.pause import Pause
from .process_tree.termination import KILL_TIMEOUT, Helpers, Termination, living_tree
from .protocol import Message
from .pty import Pty
from .recorder import Recorder
from .sandbox import Sandbox
from .slot import ReportedEnding

_QUIET_TIME = 0.25  # seconds without output after which what a command left behind has nothing more to write
_MAX_SETTLING_TIME = 1.0  # seconds for which its output is stored at most before it is terminated
_MAX_LEFTOVERS_GRACE = 1.0  # seconds between TERM and KILL for what a command left behind
_POLL_INTERVAL = 0.25  # seconds between checks where nothing can be waited on
_RETRY_DELAY = 0.05  # seconds after a call that failed
_LOOK_INTERVAL = 0.1  # seconds between looks at what is left in a sandbox


class RunningCommand:
    """A command from its start until nothing of it is left, and its end is recorded.

    `cause` is why its tree is being terminated (an ending), `ended_at` when the command itself had ended
    (time.monotonic()), `open_pipes` the descriptors at which output is still read, `tree_is_gone` whether the command
    and every descendant was reaped, `exit_is_recorded` whether the slot has its exit, which is not its end yet,
    `state_changed` whether `state` is not what it was when it was returned last.
    """

    def __init__(self, message: Message, command: Command, recorder: Recorder) -> None:
        """Take what was started for `message`; its output goes to `recorder`."""
        self.message, self.command, self.recorder = message, command, recorder
        self.job: int = message["job"]
        self.token: str = message["token"]
        self.open_pipes: set[int] = set()
        self.cause: str | None = None
        self.ended_at: float | None = None
        self.tree_is_gone = False
        self.exit_is_recorded = self.state_changed = False
        self._exit: tuple[int, resource.struct_rusage] | None = None  # wait status and usage, once it is reaped
        self._reap_again_at = math.inf  # after an attempt that failed
        self._ended_wall = 0
        self._stdin = command.stdin
        self._terminal = command.stdin if isinstance(command.stdin, Pty) else None
        self._size = message.get("tty")  # as the server knows it: the command may have changed it already
        self._kill_only = bool(message.get("kill_only"))
        timeout = message.get("timeout")
        self._timeout_at = math.inf if timeout is None else command.clock + timeout
        self._settled_at = math.inf  # when what is left may be terminated, or let go; moves with each output …
        self._settle_by = math.inf  # … up to here
        self._may_let_go = False  # its children, which may outlive it
        self._hurried = False  # it is cancelled although it has ended: do not settle
        self._termination: Termination | None = None
        self._pause: Pause | None = None
        self._leftovers: FoundLeftovers | None = None
        self._sandbox = command.sandbox
        self._look_at = math.inf  # when to look again whether its sandbox is empty

    @property
    def leaves_children(self) -> bool:
        """Whether its children may outlive it."""
        return bool(self.message.get("leave_children")) and not self.cause

    @property
    def exit_is_known(self) -> bool:
        """Whether the command itself has ended, and how is known."""
        return self.ended_at is not None and self._exit is not None

    @property
    def needs_child_signals(self) -> bool:
        """Whether its end depends on that of its children."""
        return not self.tree_is_gone and (self.ended_at is not None or self._termination is not None)

    def matches(self, message: Message) -> bool:
        """Return whether the message is about this job and this claim."""
        return (self.job, self.token) == (message["job"], message["token"])

    def store_output(self, stream: int, data: bytes) -> None:
        """Store output, also that of children after the command's own end."""
        self.recorder.store(stream, data)
        self._note_size()
        if self.ended_at is not None:
            self._extend_settling(time.monotonic())
        if self.recorder.over_limit:
            self.terminate(ReportedEnding.OUTPUT_LIMIT)

    def accept_input(self, message: Message) -> dict[str, Any]:
        """Accept or refuse the data of an `input` message; return the members of `took` that say which."""
        if self._stdin is None or not self.message.get("stream"):
            return {"offset": 0, "refused": "closed"}
        data = binascii.a2b_base64(message["data"])
        refused = self._stdin.accept(message["offset"], data, end=message["end"])
        return {"offset": self._stdin.offset, "refused": refused}

    def send_signal(self, signum: int, *, to_tree: bool) -> None:
        """Send a signal to the command's group, or to every group of its tree, unless the command has ended.

        SIGCONT ends a pause: otherwise what it lets go on would be stopped again.
        """
        if not self.has_ended():
            if signum == signal.SIGCONT:
                self._resume()
            if to_tree:
                process_tree.signal_groups(self._living_tree(), signum)
            else:
                self._signal_own_group(signum)

    def state(self) -> dict[str, Any]:
        """Return the members of `state` and `hello` that say what changes while it runs."""
        self.state_changed = False
        return {"paused": self._pause is not None, "tty": self._size}

    def control(self, message: Message) -> str | None:
        """Do what a message asks that is answered by `did`; return why not, or None."""
        if message["do"] == "resize" and self._terminal is None:
            return "no terminal"
        if self.has_ended():
            return "gone"
        match message["do"]:
            case "resize":
                return self._resize(message["rows"], message["columns"])
            case "pause":
                return self._stop()
            case "resume":
                self._resume()
        return None

    def _stop(self) -> str | None:
        if self._termination:
            return "ending"
        if self._pause is None:
            self._pause, self.state_changed = Pause(self._living_tree, time.monotonic()), True
            if self._pause.is_blind:
                self._signal_own_group(signal.SIGSTOP)
        return None

    def _resume(self) -> None:
        if self._pause is not None:
            self._pause.end()
            if self._pause.is_blind:
                self._signal_own_group(signal.SIGCONT)
            self._pause, self.state_changed = None, True

    def _resize(self, rows: int, columns: int) -> str | None:
        if not (self._terminal and self.open_pipes and self._terminal.resize(rows, columns)):
            return "no terminal"
        self._note_size()
        return None

    def _note_size(self) -> None:
        if self._terminal and self.open_pipes and (size := self._terminal.size()) != self._size:
            self._size, self.state_changed = size, True

    def terminate(self, cause: str, *, kill_only: bool = False) -> None:
        """End the command and all of its tree, which has a grace (see `termination`) unless it is only killed.

        If the command has ended by itself, its ending stays; what it left behind is terminated at once. Does nothing
        if a termination has begun.
        """
        if self._termination:
            return
        self._kill_only |= kill_only
        if self.has_ended():
            self._hurried = True
            self._settled_at = -math.inf
            return
        self.cause = cause
        if self._pause is not None:  # termination lets it go on, or kills it as it is
            self._pause, self.state_changed = None, True
        tree = self._living_tree()
        if self._kill_only:
            self._kill(tree)
            return
        self._termination = Termination(tree, self.message["grace"], self._helpers)
        if not tree:  # it could not be looked at
            self._signal_own_group(signal.SIGTERM)
            self._signal_own_group(signal.SIGCONT)

    def _kill(self, tree: list[process_tree.Process]) -> None:
        """Kill the tree at once: until then, a shell whose current step has ended would go on with the next one."""
        self._termination = Termination(tree, None, self._helpers)
        self._termination.step(time.monotonic())
        if self._termination.is_blind:
            self._signal_own_group(signal.SIGKILL)

    def _signal_own_group(self, signum: int) -> None:
        # Not reaped yet, so the group is the command's own.
        with suppress(OSError):  # another user's process (setuid), or not a signal of this kernel
            os.killpg(self.command.pid, signum)

    # Deadlines -------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """Return when `handle_deadlines` is to be called next, whatever happens before."""
        paused_until = self._pause.deadline if self._pause else math.inf
        return min(self._next_deadline(), self._reap_again_at, self._look_at, paused_until)

    def _next_deadline(self) -> float:
        stdin_due = (self._stdin and self._stdin.due) or math.inf
        if self.tree_is_gone:
            return self._settled_at
        if self._termination:
            return min(self._termination.deadline, stdin_due)
        if self.ended_at is None:
            return min(self._timeout_at, stdin_due)
        if self._may_let_go:  # but it is traced: its tracer has the status first
            return time.monotonic() + _POLL_INTERVAL
        return self._settled_at

    def handle_deadlines(self, now: float) -> None:
        """Poll the terminal; terminate the command at its timeout, and what it left behind once that has settled."""
        if self._stdin and self._stdin.due and now >= self._stdin.due:
            self._stdin.poll()
        if now >= min(self._reap_again_at, self._look_at):
            self._reap_again_at = self._look_at = math.inf
            self.reap()
        if self.tree_is_gone:
            return
        if self._pause:
            self._pause.step(now)
        if self._termination:
            self._termination.step(now)
            if self._termination.is_blind and self._exit is None:
                self._signal_own_group(signal.SIGKILL)
        elif self.ended_at is None:
            if now >= self._timeout_at:
                self._timeout_at = math.inf  # it may have ended, with its exit still to be handled
                self.terminate(ReportedEnding.TIMED_OUT)
        elif now >= self._settled_at:
            self._handle_quiet(now)

    def _handle_quiet(self, now: float) -> None:
        """Let go or terminate what is left, unless it is busy: on a loaded machine it may not have got to writing."""
        tree = self._living_tree()
        if now < self._settle_by and not self._hurried and any(process.is_busy for process in tree):
            self._extend_settling(now)
        elif self.leaves_children:
            self._may_let_go = True
        else:
            self._leftovers = FoundLeftovers(tree)
            grace = None if self._hurried and self._kill_only else min(self.message["grace"], _MAX_LEFTOVERS_GRACE)
            self._termination = Termination(tree, grace, self._helpers)

    # The end ---------------------------------------------------------------------------------------------------

    def note_exit(self) -> None:
        """Note that the command itself has ended now."""
        self.ended_at = time.monotonic()
        self._ended_wall = time.time_ns() // 1_000_000
        self._resume()  # it was killed while it was stopped, and what it left may go on
        self._settle(self.ended_at)

    def _settle(self, now: float) -> None:
        """Wait for output that is still to come, from now on."""
        self._settle_by = now + _MAX_SETTLING_TIME
        self._extend_settling(now)

    def _extend_settling(self, now: float) -> None:
        if not self._hurried:
            self._settled_at = min(now + _QUIET_TIME, self._settle_by)

    def reap(self) -> None:
        """Reap every child that has ended, the command too; see whether there is none left (ECHILD)."""
        try:
            while (reaped := os.wait4(-1, os.WNOHANG))[0]:
                pid, status, usage = reaped
                if pid == self.command.pid:
                    self._exit = status, usage
            if self._sandbox and self._exit:
                self._end_sandbox(self._sandbox)
        except ChildProcessError:
            self.tree_is_gone = True
            self._look_at = math.inf
            self._settle(time.monotonic())  # what the last one wrote is still in the pipes
            if self._sandbox:
                self._sandbox.end()
        except OSError:
            self._reap_again_at = time.monotonic() + _RETRY_DELAY

    def _end_sandbox(self, sandbox: Sandbox) -> None:
        """End the sandbox if it is empty; else look again later: orphans in it are no children of this process."""
        if self._living_tree():
            self._look_at = time.monotonic() + _LOOK_INTERVAL
        else:
            sandbox.end()

    def is_over(self, now: float) -> bool:
        """Return whether its status is known, and nothing of it is left to wait for."""
        if not self.exit_is_known:
            return False
        if self.tree_is_gone:
            # A pipe may be held by a process that is no descendant: a descriptor can be passed to it (unix(7)).
            return not self.open_pipes or now >= self._settled_at
        if self._termination:
            return self._termination.has_failed(now)
        return self._may_let_go or (self.leaves_children and not self.open_pipes)

    @property
    def _helpers(self) -> Helpers:
        return self._sandbox.helpers if self._sandbox else frozenset()

    def _living_tree(self) -> list[process_tree.Process]:
        return living_tree(self._helpers)

    def survivors(self) -> list[str]:
        """Return a remark on what could not be killed, if anything; the leftovers are only what is gone."""
        if self.tree_is_gone or self.leaves_children:
            return []
        tree = self._living_tree()
        if self._leftovers:
            self._leftovers.exclude(tree)
        names = ", ".join(FoundLeftovers(tree).names()) or "a child that could not be found"
        return [f"still running after {KILL_TIMEOUT:g} s: {names}"]

    def end_record(self) -> dict[str, Any]:
        """Return the slot's record of the end: what the kernel reported, why it was terminated, what it left."""
        assert self._exit is not None  # noqa: S101  `is_over`
        status, usage = self._exit
        reported = decode_status(status)
        natural = ReportedEnding.SIGNALLED if reported["exit_code"] is None else ReportedEnding.EXITED
        over_limit = self.recorder.over_limit
        peak = usage.ru_maxrss if usage.ru_maxrss > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss else None
        return {
            **reported,
            "ending": self.cause or (ReportedEnding.OUTPUT_LIMIT if over_limit else natural),
            "wall": self._ended_wall,
            "started": self.command.wall,
            "duration": _to_microseconds((self.ended_at or 0.0) - self.command.clock),
            "cpu_user": _to_microseconds(usage.ru_utime),
            "cpu_system": _to_microseconds(usage.ru_stime),
            # Until exec, the child is a copy of the keeper, so a peak below our own is the keeper's.
            "max_rss_bytes": peak and peak * 1024,
            **(self._leftovers.members() if self._leftovers else {}),
        }

    def has_ended(self) -> bool:
        """Return whether the command itself has ended, as far as the kernel says; its tracer may know it first."""
        if self.ended_at is not None or self._exit is not None:
            return True
        # By its pid, which nobody else has until this keeper has reaped it.
        with suppress(OSError):
            return os.waitid(os.P_PID, self.command.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        return False


def _to_microseconds(seconds: float) -> float:
    """Return the seconds, not negative, with at most six digits after the point; `round` takes tenfold the time."""
    return int(seconds * 1e6 + 0.5) / 1e6
