"""Lists of jobs: filters, sort orders and text search, answered by bounded index scans.

Owned by the store: `listing` makes pages, `walk` decides which index is read, `index_scans` and `search` read it.
Must not write jobs.
"""
