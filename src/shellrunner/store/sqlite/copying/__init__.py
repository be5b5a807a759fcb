"""Whole histories: copied beside a server for a backup, or read while no server runs for an import."""
