"""What users see on a terminal: messages, progress, tables, questions. Must not know the API."""
