"""Secrets of jobs at rest: each job's values are sealed with a key of its own, which is destroyed with the job's end.

The history has ciphertext only, so what stays of a row in the WAL, in free pages and in backups says nothing once the
key is gone. Keys are small files in `keys/`, which no backup contains. Must not know SQL or jobs.

    submission      key file written and synced ──> row committed (ciphertext, name of the key) ──> 202
    claim           row read ──> key read ──> values, in memory only
    end for good    row committed (ciphertext removed) ──> key overwritten, synced and removed
    crash between   a key that no row names is destroyed at the next start
"""
