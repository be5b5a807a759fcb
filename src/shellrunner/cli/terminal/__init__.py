"""This terminal as the terminal of a job: keys, size, modes, and a screen that is drawn again.

Must not know how jobs are submitted.
"""
