"""Verbs that read: which jobs there are, what they write, and how they end. They change nothing."""
