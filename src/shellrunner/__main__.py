"""`python -m shellrunner` is the command line."""

from shellrunner.cli import main

main()
