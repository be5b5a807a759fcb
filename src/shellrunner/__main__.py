"""`shellrunner` and `python -m shellrunner`: the command line, loaded once the signals of a server are handled.

Imports nothing by itself: each import takes time in which Ctrl-C would end in a traceback.
"""

import sys


def main() -> None:
    """Run the command line."""
    is_server = sys.argv[1:2] in (["serve"], ["worker"])
    try:
        import gc  # noqa: PLC0415  a part of the interpreter

        gc.disable()  # until the verb is imported, which leaves next to no garbage
        if is_server:
            from shellrunner import startup_signals  # noqa: PLC0415  takes 5 ms

            startup_signals.handle()
        else:
            from shellrunner import startup_interrupt  # noqa: PLC0415  takes 2 ms

            startup_interrupt.exit_at_once()  # until the verb is imported
        from shellrunner import cli  # noqa: PLC0415  takes 25 ms

        cli.main()
    except KeyboardInterrupt:  # while they were being imported
        sys.exit(0 if is_server else 130)


if __name__ == "__main__":
    main()
