"""The verbs of the command line: one module for each, of the same name."""
