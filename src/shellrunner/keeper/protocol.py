"""The messages between server and keeper, and between server and fork server: JSON objects in frames.

A frame is four bytes of length (big-endian) and that many bytes of JSON in UTF-8. Versioned by `PROTOCOL`, which a
keeper sends in its `hello`; a server must understand every version that was ever released.

    server → keeper       {"do": "start", "job", "token", "argv", "cwd", "env", "stdin", "timeout", "grace",
                           "merge_stderr", "leave_children", "output_bytes",
                           "attempt", "stream", "tty", "limits",                              (since protocol 2)
                           "user",                                                            (since protocol 3)
                           "kill_only", "sandbox",                                            (since protocol 4)
                           "echo"}                                                            (since protocol 6)
                          {"do": "cancel", "job", "token",
                           "kill_only"}                                                       (since protocol 4)
                          {"do": "signal", "job", "token", "signum",                          (since protocol 2)
                           "to"}                                                              (since protocol 4)
                          {"do": "input", "job", "token", "offset", "data", "end"}            (since protocol 2)
                          {"do": "resize", "job", "token", "rows", "columns"}                 (since protocol 6)
                          {"do": "pause" or "resume", "job", "token"}                         (since protocol 6)
                          {"do": "recorded", "job", "token"}                                  (since protocol 4)
                          (end of the connection)   an idle keeper exits
    keeper → server       {"say": "hello", "protocol", "program", "keeper", "identity", "job", "token",  (or null)
                           "paused", "tty"}                                                   (since protocol 6)
                          {"say": "ended", "job", "token", "retiring"}      the slot has the end; look there
                          {"say": "ended", "job", "token", "retiring", "end"}                 (since protocol 4)
                          {"say": "refused", "job", "token"}                                  (since protocol 4)
                          {"say": "took", "job", "token", "offset", "refused"}                (since protocol 2)
                          {"say": "did", "job", "token", "refused"}                           (since protocol 6)
                          {"say": "state", "job", "token", "paused", "tty"}                   (since protocol 6)
    server → fork server  {"do": "fork", "keeper", "header": {"history", "program"}}
    fork server → server  {"say": "forked", "keeper", "pid"}   or   {"say": "failed", "keeper", "reason"}
                          {"say": "died", "keeper", "pid", "status", "orphans": [[pid, wait status], …], "swept"}

`start`: `attempt` counts from 1; `stream` is true if input follows in messages; `tty` is null or [rows, columns], and
`echo` is true if the terminal shows what is typed;
`limits` is null or {"memory_bytes", "cpu_seconds", "processes", "open_files"}, each null or a number; `user` is null
(the keeper's own) or {"uid", "gid", "groups"}; `kill_only`: the command is ended by KILL, without TERM and grace, for
whatever cause; `sandbox` is null or the profile's name, the path of bubblewrap, its arguments for the profile, and
its seccomp program in base64, which may be empty: {"profile", "bwrap", "arguments", "system_calls"}. Defaults: 1,
false, null; since protocol 5 a member with one of the last two is left out.

`cancel`: with `kill_only` the command is ended so even if its `start` did not say so.

`signal` is sent if the command has not ended, and is not answered: to the command's process group, or if `to` is
"tree" to every process group that a descendant of the command is in.

`ended` has the `end` itself, as a slot has it, if it could not be written there. The keeper keeps it, tries again,
and sends it after every `hello`, until it is written or the server says that it is `recorded` in the history.

`refused`: the command was not started, as the keeper has another one or takes no more.

`input` is answered by `took`, in order. `data` is base64. It is accepted as a whole or not at all: if `offset` is
null or the number of bytes accepted so far, and the buffer has space. In `took`, `offset` is the number of bytes
accepted in all, and `refused` is null, "offset", "full", "closed" (never open, or ended; a wrong offset is reported
first), or "gone" (the keeper runs another job or none; then `offset` is null).

`pause` stops all of the command's tree and keeps it stopped, `resume` lets it go on; SIGCONT in a `signal` does so
too, as does everything that terminates it. Repeated, they change nothing.

`resize`, `pause` and `resume` are answered by `did`, in order with `took`. `refused` is null, "gone" (as above, or
the command has ended), "no terminal", or "ending" (of `pause`: the command is being terminated).

`state` is sent when something of it changes, before the `did` of what has changed it; `hello` has the same members.
`paused` is whether the tree is stopped.
`tty` is the terminal's present [rows, columns], which the command may change too, or null.
"""

import json
import struct
from collections.abc import Iterator
from typing import Any

PROTOCOL = 6
CONTROLS_SINCE = 2  # the first protocol version with signals and input
TREE_SIGNALS_SINCE = 4  # the first one with signals to the whole tree
STATE_SINCE = 6  # the first one that pauses commands, resizes terminals, and says what state a command is in
MAX_FRAME = 1 << 26  # bytes; a `start` with its stdin, argv and env is far smaller

_LENGTH = struct.Struct(">I")
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_decode = json.JSONDecoder().decode  # `json.loads` would first detect which UTF it is

Message = dict[str, Any]


def pack(message: Message) -> bytes:
    """Return a message as a frame."""
    body = _encode(message).encode()
    return _LENGTH.pack(len(body)) + body


class Unpacker:
    """Reassembles messages from received pieces of any size."""

    def __init__(self) -> None:
        """Start with an empty buffer."""
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Append received bytes; yield the messages that are complete now.

        Raises:
            ValueError: this is not our protocol.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME:
                raise ValueError(f"a frame of {length} bytes")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            body = self._buffer[_LENGTH.size : end]
            del self._buffer[:end]
            yield _decode(body.decode())
