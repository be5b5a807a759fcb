"""What is written to the history: each function is a unit of work, or a part of one, in one transaction.

A unit that decides on a row reads it with `locks.locked`, and repeats in its write what it decided on
(`AND state = ...`); so it is also right where several writers share a database. Shared by back ends, except for the
parts of the SQL that `store.db` lists.
"""
