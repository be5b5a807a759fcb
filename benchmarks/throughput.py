"""Empty jobs per second, from POST to recorded end, compared with bare posix_spawn and wait in the same run.

    python benchmarks/throughput.py [--jobs 3000] [--clients 16] [--rounds 3]

The limit is `os.posix_spawn` and `wait` of `sh -c true` at its best parallelism (processes × concurrent children).
The service runs with its defaults (synchronous=FULL) on a new state directory. Clients keep their connections and
send the next POST when the previous one is answered; the time ends when the last end is recorded. Rounds alternate,
so that a change in the machine's speed affects both; the ratio of each round and the median are printed.
"""

import argparse
import json
import os
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

REQUEST_BODY = b'{"command": "true"}'


def main():
    """Measure and print the results."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--jobs", type=int, default=3000)
    options.add_argument("--clients", type=int, default=16)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as state:
        server, port = serve(state)
        try:
            submit_all(port, 500, given.clients)  # warm up
            for _ in range(given.rounds):
                limit = max(spawned(p, n, given.jobs) for p in (1, 2, 3) for n in (1, 2, 4))
                ours = given.jobs / submit_all(port, given.jobs, given.clients)
                ratios.append(ours / limit)
                print(f"limit {limit:6.0f}/s   service {ours:6.0f}/s   ratio {ratios[-1]:.2f}", flush=True)
            print(f"CPU of the server per job: {cpu(server.pid) / (given.jobs * given.rounds + 500) * 1e6:.0f} µs")
        finally:
            server.terminate()
            server.wait()
    print(f"median ratio {statistics.median(ratios):.2f}")


def serve(state):
    """Start the service; return its process and port."""
    command = [sys.executable, "-m", "shellrunner", "serve", "--port", "0", "--state-dir", state]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "SHELLRUNNER_LOG__LEVEL": "info"})
    line = {}
    while "urls" not in line:  # warnings precede it
        line = json.loads(server.stderr.readline())
    drain(server.stderr)
    return server, int(line["urls"][0].rsplit(":", 1)[1])


def drain(pipe):
    """Discard the log in another process: a thread would compete for the interpreter."""
    subprocess.Popen(["cat"], stdin=pipe, stdout=subprocess.DEVNULL)


def cpu(pid):
    """Return the CPU seconds of a process."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def spawned(processes, at_once, jobs):
    """Return the commands per second of this many processes with this many concurrent children each."""
    share = jobs // processes
    started = time.perf_counter()
    workers = []
    for _ in range(processes):
        pid = os.fork()
        if pid == 0:
            _spawn_and_reap(share, at_once)
            os._exit(0)
        workers.append(pid)
    for pid in workers:
        os.waitpid(pid, 0)
    return share * processes / (time.perf_counter() - started)


def _spawn_and_reap(jobs, at_once):
    environment = dict(os.environ)
    begun = 0
    for ended in range(jobs):
        while begun - ended < at_once and begun < jobs:
            os.posix_spawn("/bin/sh", ["sh", "-c", "true"], environment)
            begun += 1
        os.wait()


def submit_all(port, jobs, clients):
    """Return the seconds from the first POST to the last recorded end."""
    request = (
        f"POST /api/jobs HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(REQUEST_BODY)}\r\n\r\n"
    ).encode() + REQUEST_BODY
    selector = selectors.EpollSelector()
    started = time.perf_counter()
    sent = answered = 0
    for _ in range(clients):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(connection, selectors.EVENT_READ)
        connection.sendall(request)
        sent += 1
    while answered < jobs:
        for key, _ in selector.select():
            answer = key.fileobj.recv(65536)
            assert answer.startswith(b"HTTP/1.1 202"), answer
            answered += 1
            if sent < jobs:
                key.fileobj.sendall(request)
                sent += 1
    last = socket.create_connection(("127.0.0.1", port))
    while b'"jobs":[]' not in ask(last, port, "/api/jobs?state=queued,running&limit=1").replace(b" ", b""):
        time.sleep(0.001)
    return time.perf_counter() - started


def ask(connection, port, path):
    """Send a GET on an open connection and return the answer."""
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
    return connection.recv(65536)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    main()
