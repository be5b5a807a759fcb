"""What the settings are, and how a wrong one is refused."""
