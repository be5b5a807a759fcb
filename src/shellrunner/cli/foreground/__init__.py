"""What makes a job look as if it ran here: its directory and environment, its output and input, its ending.

Must not know verbs.
"""
