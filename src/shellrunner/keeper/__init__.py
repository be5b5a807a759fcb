"""Keep one command: spawn it, store its output, limit it, end its whole tree, record its end.

Runs outside the server, as `python -I -S` on `__main__.py`, so everything here is standard library only and
imports nothing of the rest of the program. The server reads three of its modules, which are its face: `slot`
(what a keeper writes), `messages` (what is said to it), `identity` (which process it is).
"""
