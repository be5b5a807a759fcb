"""Integration with systemd: notifications, socket activation, and the unit files.

Used by the service and the command line. Must not know jobs, HTTP or SQL.
"""
