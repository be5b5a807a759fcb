"""The process itself: its descriptors, threads, signals, PID namespace, and its end.

Used by the composition root. Must not know HTTP or the history.
"""
