"""Commands under a profile that try to get out: files, other processes, the network, the service itself."""

import json
import os
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.selected_service import new_service
from tests.support.service import Service

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not shutil.which("bwrap") and "CI" not in os.environ, reason="needs bubblewrap"),
]


USUAL_CALLS = [
    "access", "arch_prctl", "brk", "chdir", "chmod", "clone", "clone3", "close", "creat", "dup", "dup2", "dup3",
    "epoll_create1", "execve", "exit", "exit_group", "faccessat", "faccessat2", "fchmod", "fchmodat", "fchmodat2",
    "fcntl", "fstat", "fstatfs", "ftruncate", "futex", "getcwd", "getdents64", "getegid", "geteuid", "getgid",
    "getpid", "getppid", "getrandom", "gettid", "getuid", "ioctl", "linkat", "lseek", "lstat", "madvise", "mknod",
    "mknodat", "mmap", "mprotect", "mremap", "munmap", "newfstatat", "open", "openat", "openat2", "pipe2", "poll",
    "pread64", "prctl", "prlimit64", "read", "readlink", "readlinkat", "rseq", "rt_sigaction", "rt_sigprocmask",
    "rt_sigreturn", "sched_getaffinity", "set_robust_list", "set_tid_address", "setsockopt", "sigaltstack",
    "socket", "stat", "statx", "sysinfo", "umask", "uname", "unlink", "wait4", "write",
]  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """Yield a service with a profile, a queue that imposes it, and a place that it may write to."""
    place = tmp_path_factory.mktemp("place")
    work = place / "project"
    (work / "inner/secret").mkdir(parents=True)
    (work / "inner/secret/key").write_text("the key")
    (place / "entry").mkdir()
    (place / "outside").write_text("as it was")
    untrusted = {"writable_paths": [str(work)], "hidden_paths": [str(work / "inner/secret"), "/root"]}
    profiles = {"untrusted": untrusted, "named": {**untrusted, "system_calls": USUAL_CALLS}}
    service = new_service(
        place / "state",
        SERVER__LISTEN=json.dumps(["127.0.0.1:0", "[::1]:0", f"unix:{place}/entry/socket"]),
        PROFILES=json.dumps(profiles),
        QUEUES=json.dumps({"confined": {"profile": "untrusted"}, "named": {"profile": "named"}, "free": {}}),
    )
    service.program = [*service.program[:-2]]  # without --port, which would override where it listens
    try:
        yield await service.start()
    finally:
        await service.clear_away()
        for line in service.log[-20:]:
            print(line)


async def run(service: Service, script: str, **more: Any) -> tuple[Any, str]:
    """Run a script in the queue; return its result, and what it wrote."""
    place = str(service.state_dir.parent)
    spec: dict[str, Any] = {
        "queue": "confined",
        "command": script,
        "env": {"PLACE": place},
        "merge_stderr": True,
    } | more
    job_id = await service.submit(**spec)
    result = await service.result(job_id)
    return result, result["stdout"]


@pytest.mark.heavy
async def test_a7_files_are_out_of_reach(service: Service) -> None:
    """Nothing outside can be written or, where hidden, read; moving directories away does not show what is hidden."""
    script = """
        echo x > "$PLACE/outside"; echo x > /etc/shellrunner-was-here; rm -f "$PLACE/outside"
        ls "$PLACE/state" /root /run; cat "$PLACE/project/inner/secret/key" "$PLACE/state/history.db"
        mv "$PLACE/project/inner" "$PLACE/project/other"; ln "$PLACE/outside" "$PLACE/project/link"
        echo mine > "$PLACE/project/mine"; echo t > /tmp/private && echo written
        echo x > /proc/sys/kernel/hostname; echo h > /proc/sysrq-trigger; mknod /tmp/disk b 8 0; mount -t tmpfs t /tmp
        umount "$PLACE/project/inner/secret"; unshare -Urm true; chroot / true; dmesg -c
    """
    _, output = await run(service, script)
    place = service.state_dir.parent
    assert (place / "outside").read_text() == "as it was"
    assert (place / "project/mine").read_text() == "mine\n"
    assert (place / "project/inner/secret/key").read_text() == "the key"
    assert not Path("/etc/shellrunner-was-here").exists()
    assert not Path("/tmp/private").exists()
    assert "written" in output
    assert "the key" not in output
    assert "SQLite" not in output
    _, output = await run(service, 'cat "$PLACE"/project/*/secret/key; ls "$PLACE/project"')
    assert "the key" not in output
    assert not (place / "project/other").exists()
    assert not (place / "project/link").exists()


CALL_THE_SERVICE = r"""
import os, socket, sys
port, place = int(sys.argv[1]), os.environ["PLACE"]
body = b'{"command": "true"}'
head = b"POST /api/jobs HTTP/1.1\r\nHost: localhost:%d\r\n"
head += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
for family, where in ((2, ("127.0.0.1", port)), (1, place + "/entry/socket"), (1, "\0" + sys.argv[2])):
    try:
        with socket.socket(family) as connection:
            connection.settimeout(10)
            connection.connect(where)
            connection.sendall(head % (port, len(body)) + body)
            print("reached", connection.recv(12) if "\0" not in where else "an abstract socket")
    except OSError as error:
        print("failed", error)
"""


async def test_a7_the_service_is_out_of_reach(service: Service) -> None:
    """Neither over loopback, its socket, nor an abstract one: else it would run a command without the profile."""
    name = f"shellrunner-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0{name}")
        abstract.listen()
        argv = ["/usr/bin/python3", "-c", CALL_THE_SERVICE, service.url.rpartition(":")[2], name]
        _, confined = await run(service, "", command=None, argv=argv)
        _, free = await run(service, "", command=None, argv=argv, queue="free")
    assert [line.split()[0] for line in confined.splitlines()] == ["failed"] * 3, confined
    assert [line.split()[0] for line in free.splitlines()] == ["reached"] * 3, free


PROCESSES = r"""
import ctypes, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
for pid in map(int, sys.argv[1:]):
    try:
        os.kill(pid, 0)
        print("signalled", pid)
    except OSError:
        pass
    if libc.ptrace(16, pid, 0, 0) == 0:
        print("traced", pid)
print(sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()))
for root in ("/proc/1/root", "/proc/2/root"):
    try:
        print("seen", root, open(os.environ["PLACE"] + "/project/inner/secret/key").read())
        print("seen", root, open(root + os.environ["PLACE"] + "/project/inner/secret/key").read())
    except OSError:
        pass
for fd in map(int, os.listdir("/proc/self/fd")):
    if fd > 2 and libc.setns(fd, 0) == 0:
        print("entered", fd)
open("/proc/sys/user/max_user_namespaces", "w")
"""


async def test_a7_other_processes_are_out_of_reach(service: Service) -> None:
    """It sees its own processes only; init shows no more than it sees; its descriptors lead nowhere."""
    pids = [
        str(service.process.pid),
        str(service.runner.process.pid),
        str(os.getpid()),
        *(str(each.pid) for each in service.keepers()),
    ]
    argv = ["/usr/bin/python3", "-c", PROCESSES, *pids]
    result, output = await run(service, "", command=None, argv=argv)
    assert result["exit_code"] == 1, output  # the last line is an error
    for word in ("signalled", "traced", "seen", "entered"):
        assert word not in output, output
    status = await service.get("/healthz")
    assert status[0] == 200


KERNEL_SETTINGS = r"""
import os
for top, folders, files in os.walk("/proc"):
    folders[:] = [each for each in folders if not each.isdecimal() and each not in ("self", "thread-self")]
    for name in (os.path.join(top, each) for each in files):
        try:
            os.close(os.open(name, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            continue
        print(name)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's uid can do more")
async def test_a7_no_setting_of_the_kernel_can_be_written(service: Service) -> None:
    """Not even by root without capabilities: kernel.core_pattern names a program that the kernel runs outside."""
    result, output = await run(service, "", command=None, argv=["/usr/bin/python3", "-c", KERNEL_SETTINGS])
    assert result["exit_code"] == 0, output
    assert output == ""


LEND = r"""
import ctypes, os, socket
libc, work = ctypes.CDLL(None, use_errno=True), os.environ["PLACE"] + "/project"
for mode in (0o4755, 0o2755, 0o6755):
    made = f"{work}/{mode:o}"
    os.close(os.open(made, os.O_CREAT | os.O_RDWR, 0o755))
    opened, name = os.open(made, os.O_RDWR), made.encode()
    folder = os.open(work, os.O_RDONLY)
    high = ctypes.c_ulong(1 << 32 | mode)  # the kernel reads the lower half only
    for call in (
        (90, name, mode), (90, name, high), (91, opened, mode), (268, -100, name, mode), (452, -100, name, mode, 0),
        (85, name + b"a", mode), (2, name + b"b", os.O_CREAT | os.O_RDWR, mode),
        (133, name + b"c", mode | 0o100000, 0), (259, -100, name + b"f", mode | 0o100000, 0),
        (257, folder, b"d", os.O_CREAT | os.O_RDWR, mode), (257, folder, b".", os.O_TMPFILE | os.O_RDWR, mode),
        (437, folder, b"e", (ctypes.c_ulonglong * 3)(os.O_CREAT | os.O_RDWR, mode, 0), 24),
    ):
        if libc.syscall(*call) >= 0:
            print("lent", call)
for each in os.scandir(work):
    if each.is_file() and each.stat().st_mode & 0o6000:
        print("setuid", each.name)
os.close(os.open(f"{work}/plain", os.O_CREAT | os.O_RDWR, 0o640))
os.chmod(f"{work}/plain", 0o1777)
for family in (*range(3, 10), 15, *range(17, 64), 40 | 1 << 32):
    number = libc.syscall(41, ctypes.c_ulong(family), 1, 0)
    if number >= 0 or ctypes.get_errno() != 1:
        print("socket", family, number, ctypes.get_errno())
for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6):
    socket.socket(family).close()
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="has the numbers of x86-64")
@pytest.mark.parametrize("queue", ["confined", "named"])
async def test_a7_its_user_is_lent_to_nobody(service: Service, queue: str) -> None:
    """No setuid file, by which another user would have the same power outside; no socket to another machine."""
    argv = ["/usr/bin/python3", "-c", LEND]
    result, output = await run(service, "", command=None, argv=argv, queue=queue)
    assert result["exit_code"] == 0, output
    assert output == ""


@pytest.mark.parametrize("tty", [None, {"rows": 24, "columns": 80}])
async def test_a7_no_privilege_is_gained(service: Service, tty: Any) -> None:
    """A setuid program gives none; there is no session bus and no cron to hand work to; a terminal takes no input."""
    script = """
        grep -E '^(CapEff|NoNewPrivs)' /proc/self/status
        for bus in /run/dbus/system_bus_socket /run/user/*/bus /run/docker.sock; do test -e $bus && echo $bus; done
        echo '* * * * * touch /escaped' | crontab - 2>/dev/null && echo handed over
        systemd-run --no-ask-password true 2>/dev/null && echo handed over
        exit 3
    """
    result, output = await run(service, script, tty=tty, merge_stderr=not tty)
    assert result["exit_code"] == 3
    assert [line.split() for line in output.splitlines()] == [["CapEff:", "0" * 16], ["NoNewPrivs:", "1"]]


async def test_a7_a_job_adds_confinement_and_removes_none(service: Service) -> None:
    """A queue's profile stays; another one, and children that outlive the job, are refused; documents show it."""
    job_id = await service.submit("true", profile="untrusted", queue="free")
    assert (await service.get(f"/api/jobs/{job_id}"))[2]["profile"] == "untrusted"
    job_id = await service.submit("true", queue="confined")
    assert (await service.get(f"/api/jobs/{job_id}"))[2]["profile"] == "untrusted"
    for keys, pointer in (
        ({"profile": "other"}, "#/profile"),
        ({"queue": "confined", "leave_children": True}, "#/leave_children"),
    ):
        status, _, body = await service.ask("POST", "/api/jobs", json={"command": "true", **keys})
        assert (status, [each["pointer"] for each in body["errors"]]) == (422, [pointer])
