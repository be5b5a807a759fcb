"""Lists of jobs: filters, sort orders and text search, answered by bounded index scans.

Owned by the store: `listing` makes pages, `walk` decides which index is read, `index_scans` and `search` read it.
Must not write jobs. `listing` and `walk` are shared by back ends; `search` is SQLite's (FTS5) and has to be replaced
for another one, and so are the parts of the SQL that `store.db` lists.
"""
