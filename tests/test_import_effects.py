"""What importing the program does to the process: nothing but loading modules."""

import subprocess
import sys
from pathlib import Path

import shellrunner

SOURCE = Path(shellrunner.__file__).parent

SCRIPT = """
import importlib, os, resource, signal, sys, warnings
import aiohttp.web  # adds a filter of its own (NotAppKeyWarning)

def state():
    names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    limits = {name: resource.getrlimit(getattr(resource, name)) for name in names}
    with open("/proc/self/status") as file:
        umask = next(line for line in file if line.startswith("Umask:"))
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    return {
        "umask": umask, "limits": limits, "handlers": handlers, "filters": list(warnings.filters),
        "environment": dict(os.environ), "directory": os.getcwd(),
    }

before = state()
for name in sys.argv[1:]:
    importlib.import_module(name)
    after = state()
    changed = {key: (before[key], after[key]) for key in before if before[key] != after[key]}
    if changed:
        print(name, changed)
        before = after
if "cryptography" in sys.modules:  # takes longer than all the rest, and only jobs with secrets need it
    print("cryptography was imported")
"""


def modules() -> list[str]:
    """Every module but the two programs (`__main__`), which are run and never imported."""
    paths = [path.relative_to(SOURCE.parent).with_suffix("") for path in sorted(SOURCE.rglob("*.py"))]
    return [".".join(path.parts).removesuffix(".__init__") for path in paths if path.name != "__main__"]


def test_importing_changes_no_process_state() -> None:
    """No import changes umask, limits, signal handlers, warnings' filters, environment or directory.

    Nor does any load the cipher, which only jobs with secrets need.
    """
    done = subprocess.run([sys.executable, "-c", SCRIPT, *modules()], capture_output=True, text=True, check=True)
    assert done.stdout == ""


def test_the_comparison_would_notice(tmp_path: Path) -> None:
    """A module that sets the umask, a variable, a handler and a filter is named, with each of them."""
    (tmp_path / "meddler.py").write_text(
        "import os, signal, warnings\nos.umask(0o77)\nos.environ['A'] = 'b'\n"
        "signal.signal(signal.SIGUSR1, signal.SIG_IGN)\nwarnings.simplefilter('error')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "meddler"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.startswith("meddler ")
    assert all(f"'{kind}'" in done.stdout for kind in ("umask", "environment", "handlers", "filters"))
