"""`shellrunner completion`: what makes a shell complete verbs, options and the numbers of jobs."""

import click
from click.shell_completion import get_completion_class

from shellrunner.cli import VARIABLE, cli

_WHERE = {
    "bash": '~/.bashrc: eval "$(shellrunner completion bash)"',
    "zsh": '~/.zshrc: eval "$(shellrunner completion zsh)"',
    "fish": "~/.config/fish/config.fish: shellrunner completion fish | source",
}


@click.command(epilog="\b\n" + "\n".join(_WHERE.values()))
@click.argument("shell", type=click.Choice(list(_WHERE)))
def completion(shell: str) -> None:
    """Print what makes a shell complete; it is to be run where the shell starts."""
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"{shell} is not known here")
    click.echo(kind(cli, {}, "shellrunner", VARIABLE).source())
