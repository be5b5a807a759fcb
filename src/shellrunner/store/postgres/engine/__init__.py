"""Connections to PostgreSQL on threads of their own, and the transactions that units of work run in."""
