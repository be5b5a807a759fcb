"""The fork server's program, run by file as `python -I -S __main__.py CONNECTION STATE_DIR [OPEN_FILES]`.

Isolated from the environment and without site-packages, so that only the standard library is loaded into keepers.
Loads its own package by path, and at once everything it will ever need: nothing is imported after an upgrade has
replaced the files, or after a switch of the user.
"""

import ctypes
import os
import sys

# The out-of-memory killer is to take a command before the server (OOMScoreAdjust= in its unit): what is forked from
# here has the usual score. Before the next call, after which the file is root's.
try:
    _score = os.open("/proc/self/oom_score_adj", os.O_RDWR)
    if int(os.read(_score, 16)) < 0:
        os.write(_score, b"0")
    os.close(_score)
except (OSError, ValueError):  # no /proc, or not allowed to
    pass

# Before anything else, since exec reset what the server had set: a command of our own user must not have access to
# our memory and descriptors (PR_SET_DUMPABLE in prctl(2); proc(5), ptrace(2)). Keepers inherit it, commands do not.
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)

# The standard library first, so that the program's own objects lie together: a keeper writes to every page that has
# one of them. 45 KB of a keeper's private memory; what is missing here is only imported later.
for _name in ("collections", "contextlib", "enum", "functools", "json", "resource", "socket", "termios", "typing"):
    __import__(_name)

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from keeper.fork_server import serve  # type: ignore[import-not-found]  # noqa: E402

if __name__ == "__main__":
    sys.path.pop()
    serve(int(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
