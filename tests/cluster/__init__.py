"""A cluster of several hosts on one machine: `network` has their cables, `hosts` their processes.

The commands write a ledger, as in `tests/faults/chaos`, whose jobs, clients and checks are used here too.
"""
