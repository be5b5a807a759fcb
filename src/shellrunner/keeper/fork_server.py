"""The fork server: forks keepers, so that each costs under a megabyte, and kills what a dead keeper left behind.

Launched by the server before it opens anything; outlives it until the last keeper is gone. A subreaper: a child of it
that is not a keeper was left behind by a killed one. Must not know jobs.
"""

import os
import resource
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Any

from . import memory_sharing, process_tree
from .identity import ProcessIdentity
from .loop import Keeper
from .message_socket import MessageSocket
from .process_tree.let_go import LOOK_INTERVAL, LetGoTrees
from .protocol import Message
from .slot import SlotWriter, slot_name, socket_name

_SWEEP_TIMEOUT = 2.0  # seconds for a killed keeper's descendants to end before its death is reported
_RETRY_DELAY = 0.5  # seconds between later attempts to sweep, and between looks where there is no pidfd
_PAUSE = 0.05  # seconds after a call has failed that must not fail


class ForkServer:
    """Serves one connection, the server's, and reaps."""

    def __init__(self, server: socket.socket, state: int, open_files: int | None = None) -> None:
        """Fork keepers for slots in the state directory (a descriptor); `open_files` is their soft limit."""
        self._open_files = open_files
        self._server: MessageSocket | None = MessageSocket(server)
        self._state = state
        self._slots = os.open("slots", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=state)
        self._keepers: dict[int, int] = {}  # pid → number
        self._pidfds: dict[int, int] = {}  # pid → pidfd, readable once the keeper has ended; not every keeper has one
        self._let_go = LetGoTrees()
        self._unswept = False  # a killed keeper's descendants have survived every attempt so far

    def run(self) -> None:
        """Serve until the server and the last keeper are gone.

        It waits for keepers only: a killed one's descendants are looked for when it has ended. That needs no signal
        handler, which every keeper would inherit.
        """
        while self._server or self._keepers or self._let_go.is_needed:
            ready = self._wait()
            self._let_go.receive(self._keepers)
            self._let_go.drain(ready)
            blind = self._unswept or len(self._pidfds) < len(self._keepers)
            if blind or not ready.isdisjoint(self._pidfds.values()) or self._let_go.is_look_due():
                self._reap()
            if self._server and self._server.fileno() in ready:
                self._receive(self._server)

    def _wait(self) -> set[int]:
        """Return the descriptors that are ready, or all of them if that cannot be known."""
        poll = select.poll()
        watched = {self._let_go.receiving.fileno(), *self._let_go.drained, *self._pidfds.values()}
        for descriptor in watched:
            poll.register(descriptor, select.POLLIN)
        if self._server:
            watched.add(self._server.fileno())
            poll.register(self._server, self._server.events)
        blind = self._unswept or len(self._pidfds) < len(self._keepers)
        seconds = _RETRY_DELAY if blind else LOOK_INTERVAL if self._let_go.is_needed else None
        try:
            return {descriptor for descriptor, _ in poll.poll(seconds and seconds * 1000)}
        except OSError:  # ENOMEM, for example
            time.sleep(_PAUSE)
            return watched

    def _receive(self, server: MessageSocket) -> None:
        server.flush()
        try:
            for message in server.receive() or ():
                self._handle_fork(message["keeper"], message["header"])
        except (EOFError, ValueError):  # ValueError: this is not our protocol
            server.close()
            self._server = None

    def _send(self, message: Message) -> None:
        if self._server:
            self._server.send(message)

    def _handle_fork(self, number: int, header: dict[str, Any]) -> None:
        try:
            pid = self._fork_keeper(number, header)
        except (
            OSError
        ) as error:  # no space, descriptors or processes left: one keeper less, the others are not affected
            self._send({"say": "failed", "keeper": number, "reason": error.strerror})
            return
        self._keepers[pid] = number
        with suppress(OSError):  # without it, its end is looked for from time to time
            self._pidfds[pid] = os.pidfd_open(pid)
        self._send({"say": "forked", "keeper": number, "pid": pid})

    def _fork_keeper(self, number: int, header: dict[str, Any]) -> int:
        # Slot and socket exist before the keeper does, so that the server can connect as soon as it reads "forked".
        slot = SlotWriter.create(self._slots, slot_name(number))
        listener: socket.socket | None = None
        try:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.setblocking(False)
            os.fchmod(listener.fileno(), 0o600)  # the mode of the socket's file, less the umask
            # Through the descriptor, since a socket's own path is limited to 107 bytes (unix(7)).
            listener.bind(f"/proc/self/fd/{self._slots}/{socket_name(number)}")
            listener.listen(8)
            pid = os.fork()
        except OSError:
            for name in (slot_name(number), socket_name(number)):
                with suppress(OSError):
                    os.unlink(name, dir_fd=self._slots)
            raise
        else:
            if pid == 0:
                self._become_keeper(number, header, slot, listener)
            return pid
        finally:
            with suppress(OSError):
                # The lock stays with the keeper's copy: flock(2) belongs to the open file description.
                os.close(slot.fd)
            with suppress(OSError):
                if listener:
                    listener.close()

    def _become_keeper(self, number: int, header: dict[str, Any], slot: SlotWriter, listener: socket.socket) -> None:
        status = 1
        try:
            for pidfd in self._pidfds.values():
                with suppress(OSError):
                    os.close(pidfd)
            if self._server:
                self._server.close()
            self._let_go.close()
            process_tree.become_subreaper()
            if self._open_files is not None:
                _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
                resource.setrlimit(resource.RLIMIT_NOFILE, (self._open_files, hard))
            identity = ProcessIdentity.from_pid(os.getpid()).to_dict()
            slot.write_header({**header, "keeper": number, "identity": identity})
            hello = {"program": header["program"], "keeper": number, "identity": identity}
            Keeper(self._state, slot, listener, hello, self._let_go.sending).run()
            status = 0
        except BaseException:  # noqa: BLE001  whatever happened, the child must not return into its parent's stack
            # What is left of a command becomes the fork server's, which kills it, or spares it if it was handed over.
            with suppress(OSError):
                sys.__excepthook__(*sys.exc_info())
        finally:
            with suppress(OSError):
                os.unlink(socket_name(number), dir_fd=self._slots)
            os._exit(status)

    def _reap(self) -> None:
        died, orphans = self._collect()
        if self._unswept or orphans or any(status for _, _, status in died):
            # A keeper exits with 0 only after ECHILD: it left no child. Any other end may have left a tree.
            try:
                self._unswept = not self._sweep(died, orphans)
            except OSError:  # no descriptors left, for example
                self._unswept = True
        for number, pid, status in died:
            evidence = {"orphans": orphans, "swept": not self._unswept}
            self._send({"say": "died", "keeper": number, "pid": pid, "status": status, **evidence})

    def _sweep(self, died: list[tuple[int, int, int]], orphans: list[tuple[int, int]]) -> bool:
        """Kill what dead keepers left, adding to what was reaped; return whether all of it is gone."""
        deadline = time.monotonic() + _SWEEP_TIMEOUT
        spared = self._keepers.keys() | self._let_go.spared()
        while left := process_tree.descendants(os.getpid(), spared):
            if time.monotonic() > deadline:
                break
            process_tree.kill(spared)
            time.sleep(0.002)  # they end meanwhile
            more_died, more_orphans = self._collect()
            died += more_died
            orphans += more_orphans
            spared = self._keepers.keys() | self._let_go.spared()
        return not left

    def _collect(self) -> tuple[list[tuple[int, int, int]], list[tuple[int, int]]]:
        """Reap the ended children; return keepers (number, pid, wait status) and orphans (pid, wait status)."""
        died: list[tuple[int, int, int]] = []
        orphans: list[tuple[int, int]] = []
        try:
            while (reaped := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = reaped
                if pid in self._keepers:
                    self._keeper_ended(pid, status)
                    died.append((self._keepers.pop(pid), pid, status))
                else:
                    orphans.append((pid, status))
        except ChildProcessError:
            pass
        except OSError:
            time.sleep(_PAUSE)  # its pidfd stays ready: it is tried again
        return died, orphans

    def _keeper_ended(self, pid: int, status: int) -> None:
        self._let_go.receive(self._keepers)  # it may have handed over just before
        self._let_go.keeper_ended(pid, status)
        pidfd = self._pidfds.pop(pid, None)
        if pidfd is not None:
            with suppress(OSError):
                os.close(pidfd)


def serve(connection: int, state_dir: str, open_files: int | None = None) -> None:
    """Run the fork server; `connection` is the descriptor of the socket to the server.

    `open_files` is the soft limit of open files for keepers and commands (default: as it is). The fork server itself
    needs one for each keeper.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(ignored, signal.SIG_IGN)  # a keeper must see its command through, also when the host shuts down
    process_tree.become_subreaper()
    state = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    os.chdir("/")  # everything is opened by descriptor; the state directory may be closed to us later
    server = socket.socket(fileno=connection)
    os.set_inheritable(connection, False)
    _kept = memory_sharing.prepare(state)
    ForkServer(server, state, open_files).run()
