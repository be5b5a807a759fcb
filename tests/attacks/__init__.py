"""Attacks by way of HTTP, each of which must change nothing."""
