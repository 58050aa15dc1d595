"""`agentmesh completion`: what a shell needs to complete the command."""

import click
from click.shell_completion import get_completion_class

_SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print the completion script for a shell.

    For bash: agentmesh completion bash > ~/.local/share/bash-completion/completions/agentmesh
    """
    from agentmesh.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "agentmesh", "_AGENTMESH_COMPLETE").source())
