"""The store on PostgreSQL, which several hosts share: the same units, run by each node on connections of its own.

Opened by `composition` where config has a URL; psycopg and pgqueuer are imported nowhere else. The rules of the
contract hold for all nodes together:

- Each unit is one transaction at READ COMMITTED, and names what it relies on: rows that it has locked, a state in the
  WHERE of its writes, or an advisory lock (`advisory`).
- What a node has committed it sends to the others afterwards (`effects.outbox`). A notification may be lost, so what
  waits for one also looks by itself from time to time.
- Nothing that a decision depends on is in memory: counts, pauses and limits are read in the transaction that decides.
"""
