"""shellrunner: runs shell commands for other programs. Witnessed or unknown."""

__version__ = "0.1.0"
