"""Memory: of server and keeper while 1 GB of output is stored and followed, and per running job.

    python benchmarks/memory.py [--gigabytes 1] [--running 200]

Private memory is Private_Clean + Private_Dirty of /proc/PID/smaps_rollup (proc_pid_smaps(5)): what would be free if
the process were not there. A running job is its keeper and its command (`sleep`).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path


def main():
    """Measure and print the results."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--gigabytes", type=float, default=1)
    options.add_argument("--running", type=int, default=200)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as state:
        settings = {"SHELLRUNNER_SUPERVISOR__MAX_RUNNING": "1000", "SHELLRUNNER_SUPERVISOR__ON_STOP": "cancel"}
        server = subprocess.Popen(
            [sys.executable, "-m", "shellrunner", "serve", "--port", "0", "--state-dir", state],
            stderr=subprocess.PIPE, env={**os.environ, **settings},
        )  # fmt: skip
        line = {}
        while "urls" not in line:  # warnings precede it
            line = json.loads(server.stderr.readline())
        url = line["urls"][0]
        subprocess.Popen(["cat"], stdin=server.stderr, stdout=subprocess.DEVNULL)
        try:
            output(url, server.pid, int(given.gigabytes * 1e9))
            running(url, state, given.running)
        finally:
            server.terminate()
            server.wait()


def output(url, server, size):
    """Run a job that writes `size` bytes with one follower; print the private memory before, during and after."""
    submit(url, "true")
    time.sleep(1)
    before = private(server)
    job = submit(url, f"sleep 1; head -c {size} /dev/zero")
    keeper = wait_for_keeper(job)
    follower = subprocess.Popen(
        ["curl", "-sN", f"{url}/api/statuses/{job}/output?follow=true"], stdout=subprocess.DEVNULL
    )
    most = {"server": 0, "keeper": 0}
    began = time.perf_counter()
    while not get(url, f"/api/jobs/{job}")["done"]:
        most = {"server": max(most["server"], private(server)), "keeper": max(most["keeper"], private(keeper))}
        time.sleep(0.05)
    seconds = time.perf_counter() - began
    follower.wait()
    stored = get(url, f"/api/results/{job}")["stdout_bytes"]
    print(f"{stored / 1e9:.2f} GB stored in {seconds:.1f} s ({stored / 1e6 / seconds:.0f} MB/s) with one follower")
    print(f"server: {before / 1e6:.1f} MB before, at most {most['server'] / 1e6:.1f} MB meanwhile")
    print(f"keeper: at most {most['keeper'] / 1e6:.2f} MB")


def running(url, state, number):
    """Start this many `sleep` jobs; print the average private memory of a keeper and its command."""
    for _ in range(number):
        submit(url, "exec sleep 600")
    while len(commands := children(state)) < number:
        time.sleep(0.05)
    keepers = {parent for _, parent in commands}
    total = sum(private(pid) for pid, _ in commands) + sum(private(pid) for pid in keepers)
    each = total / number
    print(f"{number} running jobs: {each / 1e6:.2f} MB private each, keeper and command together")


def children(state):
    """Return (pid, parent) of each running `sleep` that a keeper of this state directory started."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                if Path(f"/proc/{name}/cmdline").read_bytes() == b"sleep\x00600\x00" and of_ours(fields[1], state):
                    found.append((int(name), int(fields[1])))
            except OSError:
                pass
    return found


def of_ours(pid, state):
    """Return whether the process is a keeper of this state directory."""
    return state.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


def wait_for_keeper(job):
    """Return the pid of the keeper of this job."""
    mark = f"SHELLRUNNER_JOB_ID={job}".encode()
    while True:
        for name in os.listdir("/proc"):
            try:
                if name.isdecimal() and mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    return int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                pass


def private(pid):
    """Return the bytes of private memory; 0 if the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def submit(url, command):
    """Submit a job and return its id."""
    body = json.dumps({"command": command}).encode()
    request = urllib.request.Request(f"{url}/api/jobs", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["job_id"]


def get(url, path):
    """Send a GET and return the JSON document."""
    with urllib.request.urlopen(url + path) as answer:
        return json.load(answer)


if __name__ == "__main__":
    main()
