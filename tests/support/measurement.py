"""Measure coverage in servers, CLI calls and keepers too, where `coverage run` started the tests; else do nothing.

coverage.py follows subprocesses by a variable, which the environments that tests make do not have, and by a .pth
file, which a keeper does not read: it runs with -I -S.
"""

import os
import sys
import tempfile
from functools import cache
from importlib import import_module
from pathlib import Path

import shellrunner.keeper

IS_MEASURED = "COVERAGE_PROCESS_CONFIG" in os.environ
ENVIRONMENT = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
FORK_SERVER = Path(shellrunner.keeper.__file__).with_name("__main__.py")

# Stands in for the fork server's program: starts the measurement, then goes on as that program. What a forked child
# did before its execve(2) is saved by that, what a keeper did by its os._exit (`patch` in pyproject.toml).
_WRAPPER = """
import os, runpy, sys
sys.path += {paths!r}
os.environ["COVERAGE_PROCESS_CONFIG"] = {config!r}
import coverage
coverage.process_startup()
del os.environ["COVERAGE_PROCESS_CONFIG"]
sys.path += [{package!r}]
from keeper import fork_exec
execve = fork_exec._execve
def save_and_execve(*arguments):
    try:
        coverage.Coverage.current().save()
    except BaseException:
        pass  # another user may write no file there, and a limit may leave no memory for it
    return execve(*arguments)
fork_exec._execve = save_and_execve
sys.path.pop()
runpy.run_path({program!r}, run_name="__main__")
"""


@cache
def fork_server_program() -> str:
    """Return the path of the program to start as a fork server: the real one, or one that measures it."""
    if not IS_MEASURED:
        return str(FORK_SERVER)
    text = _WRAPPER.format(
        paths=[path for path in sys.path if path.endswith("-packages")],
        config=os.environ["COVERAGE_PROCESS_CONFIG"],
        package=str(FORK_SERVER.parents[1]),
        program=str(FORK_SERVER),
    )
    fd, path = tempfile.mkstemp(prefix="fork_server_", suffix=".py")
    with open(fd, "w") as file:
        file.write(text)
    return path


def save() -> None:
    """Save what a pytest worker has measured, which is killed if it does not end in time."""
    if IS_MEASURED:
        current = import_module("coverage").Coverage.current()
        current.stop()
        current.save()
        current._auto_save = False
