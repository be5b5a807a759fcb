"""What the tests share: real services, keepers and terminals, clients that misbehave, and waiting on conditions.

A helper that two test packages need lives here and nowhere else. No helper replaces a part of the program.
"""
