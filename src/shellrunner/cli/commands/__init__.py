"""The verbs of the command line: one module for each, of the same name, in the package of its section.

A verb exists once its name is also in `SECTIONS` of `shellrunner.cli.verb_group`, which imports its module when it is
called.
"""
