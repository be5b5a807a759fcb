"""Run commands outside the server: spawn, store the output, enforce limits, end the tree, record the end.

Runs as `python -I -S` on `__main__.py`: standard library only, no import from the rest of the program. The server
may import three of its modules: `slot` (what a keeper writes), `protocol` (the messages) and `identity` (which
process it is).
"""
