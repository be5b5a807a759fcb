"""Enqueue tasks and wait for their results: `python -m producer MODULE` reads numbers of tasks from stdin."""

import importlib
import json
import sys
import time

tasks = importlib.import_module(sys.argv[1])
for line in sys.stdin:
    began, cpu = time.perf_counter(), time.process_time()
    pending = [tasks.enqueue() for _ in range(int(line))]
    if any(tasks.result(task) != 0 for task in pending):
        raise ChildProcessError("a command failed")
    print(json.dumps({"wall": time.perf_counter() - began, "cpu": time.process_time() - cpu}), flush=True)
