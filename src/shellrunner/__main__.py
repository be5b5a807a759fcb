"""`shellrunner` and `python -m shellrunner`: the command line, loaded once the signals of a server are handled."""

import sys

from shellrunner import startup_signals


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["serve"]:
        startup_signals.handle()
    try:
        from shellrunner import cli  # noqa: PLC0415  takes 25 ms

        cli.main()
    except KeyboardInterrupt:  # while it was being imported
        sys.exit(130)


if __name__ == "__main__":
    main()
