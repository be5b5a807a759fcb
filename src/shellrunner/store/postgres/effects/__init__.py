"""Consequences of commits at this node and at the others, and what is done from time to time."""
