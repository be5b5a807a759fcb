"""The verbs of the command line: one module for each, of the same name.

A verb exists once its name is also in `VERBS` of `shellrunner.cli`, which imports its module when it is called.
"""
