"""Verbs for the machine on which the service runs: they run, install, back up and configure it."""
