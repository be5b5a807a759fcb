"""What importing the program does to the process: nothing but loading modules."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.heavy
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


AUTHORITIES = """
import ssl
from shellrunner.aiohttp_import import import_aiohttp
import_aiohttp()
from aiohttp import connector
for context in (connector._SSL_CONTEXT_VERIFIED, connector._SSL_CONTEXT_UNVERIFIED):
    print(context.cert_store_stats()["x509"])
verified = connector._SSL_CONTEXT_VERIFIED
print(verified.verify_mode == ssl.CERT_REQUIRED, verified.check_hostname)
print("set_default_verify_paths" in vars(ssl.SSLContext), ssl.create_default_context().cert_store_stats()["x509"])
"""


@pytest.mark.real_exec
def test_aiohttp_is_imported_without_certificates(tmp_path: Path) -> None:
    """Its default contexts have none and trust nobody; a context that is made later has those of the system."""
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    names = ["-subj", "/CN=localhost", "-keyout", "/dev/null", "-out", tmp_path / "certificate.pem"]
    subprocess.run([*make, *map(str, names)], check=True, capture_output=True)
    environment = {**os.environ, "SSL_CERT_FILE": str(tmp_path / "certificate.pem"), "SSL_CERT_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", AUTHORITIES], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split() == ["0", "0", "True", "True", "False", "1"]


# What an idle server imports and never uses is memory of every server.
NEVER_USED = {
    "difflib", "dotenv", "encodings.koi8_r", "pydantic_settings",
    "shellrunner.client", "shellrunner.web.openapi.document", "cryptography", "wcwidth",
    "psycopg", "pgqueuer", "shellrunner.store.postgres.engine",
}  # fmt: skip


@pytest.mark.heavy
@pytest.mark.real_exec
def test_an_idle_server_has_imported_what_it_uses(tmp_path: Path) -> None:
    """A server that listens has neither loaded decoders of charsets nor what documents the API; it has 8 threads."""
    serve = ["serve", "--port", "0", "--state-dir", tmp_path / "state"]
    program = [sys.executable, "-X", "importtime", "-m", "shellrunner", *map(str, serve)]
    loaded = []
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            if '"listening"' in line:
                threads = len(os.listdir(f"/proc/{process.pid}/task"))
                process.send_signal(signal.SIGTERM)
                break
            loaded += re.findall(r"^import time: .*\| +(\S+)$", line)
        process.stderr.read()
    assert process.returncode == 0
    assert not set(loaded) & NEVER_USED
    assert loaded.index("shellrunner.aiohttp_import") < loaded.index("aiohttp.hdrs")
    assert threads == 8
