"""The store in one SQLite file, beside the slots and the spill files of this host; `composition` opens it."""
