"""Attacks on the front door, each of which must change nothing."""
