"""Request lines and request targets: one protocol, and one spelling of a path (RFC 9112, 3; RFC 3986, 6.2.2).

A proxy before the service may apply its rules to a path as it is written. So a path that could be written in another
way is refused before anything is decided about it, and no rule is avoided by another spelling. Pure functions, and a
value for each connection. Must not know any resource.
"""

import re
from typing import Final
from urllib.parse import unquote

# A character that a path may contain (RFC 3986, 3.3) stands for itself, except the ";" of parameters, and another is
# encoded, in upper case. "%", "/", "\", ";" and control characters are not encoded either: a proxy may decode them
# before it applies its rules, or after. No segment is empty, "." or "..", but the last one may be empty: that is
# another path, not another spelling.
_CHARACTER: Final = "[A-Za-z0-9._~!$&'()*+,=:@-]"
_ENCODED: Final = "%(?:2[0-46-9A-C]|3[AC-F]|40|5[BDE]|60|7[B-D]|[89A-F][0-9A-F])"
# The first alternative adds nothing to the others: it is what nearly all paths are, and takes a fifth of the time.
_PATH: Final = re.compile(rf"(?:/[A-Za-z0-9_~-]+)+|/|(?:/(?!\.\.?(?:/|\Z))(?:{_CHARACTER}|{_ENCODED})+)+/?")

# Exactly one space on each side of the target. The parsers of aiohttp accept some other versions of HTTP, and the one
# in C takes RTSP/1.0 for HTTP/1.0.
_REQUEST_LINE: Final = re.compile(rb"[^ \r\n]* [^ \r\n]* HTTP/1\.[01]\r?\n")
_CONTENT_LENGTH: Final = b"\r\ncontent-length:"
_LENGTH: Final = re.compile(rb"[ \t]*([0-9]{1,18})[ \t]*\r\n")
_TRANSFER_ENCODING: Final = b"\r\ntransfer-encoding"
_END_OF_HEAD: Final = b"\r\n\r\n"
# What no parser takes for a part of a request line, nor for a line of its own.
NO_REQUEST_LINE: Final = b"\0\r\n\r\n"


def has_one_spelling(path: str) -> bool:
    """Return whether the path of a request target is written in the only way that is accepted."""
    if _PATH.fullmatch(path) is None:
        return False
    if "%" not in path:
        return True
    try:
        return unquote(path, errors="strict").isprintable()
    except UnicodeDecodeError:
        return False


class RequestLines:
    """Follows the bytes of a connection from one request line to the next, and checks each.

    It finds them by the lengths that the requests declare. The parser does so too, but keeps no request line; where
    the two disagree, a part of a body is taken for a request line and refused.
    """

    __slots__ = ("_body", "_head", "_is_line_checked")

    def __init__(self) -> None:
        """Expect a request line."""
        self._head = bytearray()  # the part of a head that has arrived
        self._is_line_checked = False
        self._body = 0  # bytes of a body that are still to come; -1: nothing behind it is read

    def first_refused(self, data: bytes) -> int | None:
        """Return where in `data` the rest of the first line begins that is not a request line, or None."""
        position = 0
        while position < len(data) and self._body >= 0:
            if self._body:
                taken = min(self._body, len(data) - position)
                self._body -= taken
                position += taken
                continue
            end = self._read_head(data, position)
            if end is None:
                return position
            position = end
        return None

    def _read_head(self, data: bytes, start: int) -> int | None:
        """Read a head, or the part of it that has arrived; return where it ends, None if its line is refused."""
        if not self._head:  # RFC 9112, 2.2: empty lines before a request line are ignored
            while data[start : start + 1] in (b"\r", b"\n"):
                start += 1
            if (whole := data.find(_END_OF_HEAD, start) + 4) >= 4:  # as nearly all arrive: nothing has to be kept
                self._body = _body_length(data[start:whole])
                return whole if _REQUEST_LINE.match(data, start) else None
        end = self._complete_head(data, start)
        if not self._check_line():
            return None
        if end is None:
            return len(data)
        self._body = _body_length(self._head)
        self._head.clear()
        self._is_line_checked = False
        return end

    def _complete_head(self, data: bytes, start: int) -> int | None:
        """Add to the head what belongs to it; return where it ends in `data`, None if it does not."""
        before = len(self._head)
        self._head += data[start:]
        end = self._head.find(_END_OF_HEAD, max(0, before - 3))
        if end < 0:
            return None
        del self._head[end + 4 :]
        return start + end + 4 - before

    def _check_line(self) -> bool:
        if self._is_line_checked or b"\n" not in self._head:
            return True
        self._is_line_checked = _REQUEST_LINE.match(self._head) is not None
        return self._is_line_checked


def _body_length(head: bytes | bytearray) -> int:
    """Return how many bytes follow a head; -1: nothing behind it is read, since the connection ends."""
    lower = head.lower()  # of bytes: only A to Z
    if _TRANSFER_ENCODING in lower:
        return -1
    at = lower.find(_CONTENT_LENGTH)
    length = _LENGTH.match(lower, at + len(_CONTENT_LENGTH)) if at >= 0 else None
    return int(length[1]) if length else 0
