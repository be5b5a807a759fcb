"""Faults injected into real parts: failing calls, killed processes, damaged files, full disks, changed clocks.

The README's test command runs a short selection, `.ci/run` all of it (`--faults whole`), and `-m soak` the long
rounds. Every random choice follows from a seed that is printed with a failure; `--fault-seed` repeats it. Checkers
know only what the commands themselves appended to a ledger and what the API answers, never the program's own code.
"""
