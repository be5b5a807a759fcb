"""What the command line shows to people: console, tables, progress, formats, questions."""
