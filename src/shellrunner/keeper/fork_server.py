"""The fork server: forks keepers, so that each costs under a megabyte, and kills what a dead keeper left behind.

Launched by the server before it opens anything; outlives it until the last keeper is gone. A subreaper: a child of it
that is not a keeper was left behind by a killed one. Must not know jobs.
"""

import gc
import os
import select
import signal
import socket
import time
import traceback
from contextlib import suppress
from typing import Any

from . import process_tree
from .identity import ProcessIdentity
from .loop import Keeper
from .message_socket import MessageSocket
from .protocol import Message
from .slot import SlotWriter, slot_name, socket_name

_SWEEP_TIMEOUT = 2.0  # seconds for a killed keeper's descendants to end before its death is reported
_RETRY_DELAY = 0.5  # seconds between later attempts to sweep


class ForkServer:
    """Serves one connection, the server's, and reaps."""

    def __init__(self, server: socket.socket, state: int) -> None:
        """Fork keepers for slots in the state directory (a descriptor)."""
        self._server: MessageSocket | None = MessageSocket(server)
        self._state = state
        self._slots = os.open("slots", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=state)
        self._keepers: dict[int, int] = {}  # pid → number
        self._pidfds: dict[int, int] = {}  # pid → pidfd, readable once the keeper has ended
        self._unswept = False  # a killed keeper's descendants have survived every attempt so far

    def run(self) -> None:
        """Serve until the server and the last keeper are gone.

        It waits for keepers only: a killed one's descendants are looked for when it has ended. That needs no signal
        handler, which every keeper would inherit.
        """
        while self._server or self._keepers:
            poll = select.poll()
            for descriptor in self._pidfds.values():
                poll.register(descriptor, select.POLLIN)
            if self._server:
                poll.register(self._server, self._server.events)
            ready = {descriptor for descriptor, _ in poll.poll(_RETRY_DELAY * 1000 if self._unswept else None)}
            if self._unswept or not ready.isdisjoint(self._pidfds.values()):
                self._reap()
            if self._server and self._server.fileno() in ready:
                self._receive(self._server)

    def _receive(self, server: MessageSocket) -> None:
        server.flush()
        try:
            for message in server.receive() or ():
                self._handle_fork(message["keeper"], message["header"])
        except EOFError:
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
        self._keepers[pid], self._pidfds[pid] = number, os.pidfd_open(pid)
        self._send({"say": "forked", "keeper": number, "pid": pid})

    def _fork_keeper(self, number: int, header: dict[str, Any]) -> int:
        # Slot and socket exist before the keeper does, so that the server can connect as soon as it reads "forked".
        slot = SlotWriter(self._slots, slot_name(number))
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(listener.fileno(), 0o600)  # the mode of the socket's file, less the umask
            # Through the descriptor, since a socket's own path is limited to 107 bytes (unix(7)).
            listener.bind(f"/proc/self/fd/{self._slots}/{socket_name(number)}")
            listener.listen(8)
            pid = os.fork()
        except OSError:
            for name in (slot_name(number), socket_name(number)):
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=self._slots)
            raise
        else:
            if pid == 0:
                self._become_keeper(number, header, slot, listener)
            return pid
        finally:
            os.close(slot.fd)  # the lock stays with the keeper's copy: flock(2) belongs to the open file description
            listener.close()

    def _become_keeper(self, number: int, header: dict[str, Any], slot: SlotWriter, listener: socket.socket) -> None:
        status = 1
        try:
            for pidfd in self._pidfds.values():
                os.close(pidfd)
            if self._server:
                self._server.close()
            process_tree.become_subreaper()
            identity = ProcessIdentity.from_pid(os.getpid()).to_dict()
            slot.write_header({**header, "keeper": number, "identity": identity})
            hello = {"program": header["program"], "keeper": number, "identity": identity}
            Keeper(self._state, slot, listener, hello).run()
            status = 0
        except BaseException:  # noqa: BLE001  whatever happened, the child must not return into its parent's stack
            traceback.print_exc()
        finally:
            with suppress(OSError):
                os.unlink(socket_name(number), dir_fd=self._slots)
            os._exit(status)

    def _reap(self) -> None:
        died, orphans = self._collect()
        if self._unswept or orphans or any(status for _, _, status in died):
            # A keeper exits with 0 only after ECHILD: it left no child. Any other end may have left a tree.
            deadline = time.monotonic() + _SWEEP_TIMEOUT
            while (left := process_tree.descendants(os.getpid(), self._keepers)) and time.monotonic() < deadline:
                process_tree.kill(spared=self._keepers)
                time.sleep(0.002)  # they end meanwhile
                more_died, more_orphans = self._collect()
                died += more_died
                orphans += more_orphans
            self._unswept = bool(left)
        for number, pid, status in died:
            evidence = {"orphans": orphans, "swept": not self._unswept}
            self._send({"say": "died", "keeper": number, "pid": pid, "status": status, **evidence})

    def _collect(self) -> tuple[list[tuple[int, int, int]], list[tuple[int, int]]]:
        """Reap the ended children; return keepers (number, pid, wait status) and orphans (pid, wait status)."""
        died: list[tuple[int, int, int]] = []
        orphans: list[tuple[int, int]] = []
        with suppress(ChildProcessError):
            while (reaped := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = reaped
                if pid in self._keepers:
                    os.close(self._pidfds.pop(pid))
                    died.append((self._keepers.pop(pid), pid, status))
                else:
                    orphans.append((pid, status))
        return died, orphans


def serve(connection: int, state_dir: str) -> None:
    """Run the fork server; `connection` is the descriptor of the socket to the server."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(ignored, signal.SIG_IGN)  # a keeper must see its command through, also when the host shuts down
    process_tree.become_subreaper()
    state = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    os.fchdir(state)
    server = socket.socket(fileno=connection)
    os.set_inheritable(connection, False)
    gc.collect()
    gc.freeze()  # keeps memory pages shared with the keepers: the collector does not write to them
    ForkServer(server, state).run()
