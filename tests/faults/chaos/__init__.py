"""Chaos: clients submit and follow, everything is killed and stopped, and afterwards the history must be true.

`jobs`: what is submitted; `clients`: how; `injection`: what is done to the processes; `ledger`: what commands report
about themselves; `checks`: what must hold. None of them uses the program's code, only its API and the kernel's /proc.
"""
