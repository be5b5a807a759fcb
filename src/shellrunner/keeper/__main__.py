"""Run by file as `python -I -S __main__.py CONNECTION STATE_DIR`: the fork server.

Isolated from the environment and without site-packages, so that nothing but the standard library can reach a
keeper. Loads its own package by path, then everything it will ever need: nothing is imported after an upgrade has
replaced the files, or after a change of user.
"""

import os
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from keeper.forkserver import serve  # type: ignore[import-not-found]

if __name__ == "__main__":
    sys.path.pop()
    serve(int(sys.argv[1]), sys.argv[2])
