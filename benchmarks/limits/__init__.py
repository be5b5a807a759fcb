"""Limits: what the machine can do at best, without any of the service."""
