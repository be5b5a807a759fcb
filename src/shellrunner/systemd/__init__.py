"""The service under systemd: notifications, passed sockets, and the unit files."""
