"""`shellrunner completion`: the script by which a shell completes verbs, options and job ids."""

from typing import Final

import click
from click.shell_completion import get_completion_class

from shellrunner.cli.ui import shell_completion
from shellrunner.cli.verb_group import COMPLETION_VARIABLE, cli

_INSTRUCTIONS: Final = {
    "bash": '~/.bashrc: eval "$(shellrunner completion bash)"',
    "zsh": '~/.zshrc: eval "$(shellrunner completion zsh)"',
    "fish": "~/.config/fish/config.fish: shellrunner completion fish | source",
}


@click.command(epilog="\b\n" + "\n".join(_INSTRUCTIONS.values()))
@click.argument("shell", type=click.Choice(list(_INSTRUCTIONS)))
def completion(shell: str) -> None:
    """Print a completion script, to be evaluated when the shell starts."""
    shell_completion.install()
    script = get_completion_class(shell)
    if script is None:
        raise click.UsageError(f"the installed click does not support completion for {shell}")
    click.echo(script(cli, {}, "shellrunner", COMPLETION_VARIABLE).source())
