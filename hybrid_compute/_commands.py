"""The commands of `hybrid-compute`: which there are. Each is loaded when somebody asks for it.

A server, or a command in a shell's loop, so waits for no other command's modules; together they
take longer to load than `serve` does.

Threads: none.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from types import MappingProxyType

import click
import rich  # noqa: F401 - most commands print with it; who lacks it is told before anything runs

__all__ = ["main"]

# The module and the name in it of each command.
_COMMANDS = MappingProxyType(
    {
        "advise": ("_advise_commands", "advise_on"),
        "demo": ("_demo_commands", "demo"),
        "doctor": ("_doctor_commands", "doctor"),
        "outbox": ("_outbox_commands", "outbox"),
        "replay": ("_replay", "replay"),
        "report": ("_report_commands", "report"),
        "serve": ("_serve", "serve"),
        "top": ("_top", "top"),
    }
)


class _Commands(click.Group):
    """All of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return their names, in the order in which the help shows them."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load the command of this name; None: there is none."""
        if cmd_name not in _COMMANDS:
            return None
        module, name = _COMMANDS[cmd_name]
        try:
            found: click.Command = getattr(
                importlib.import_module(f"hybrid_compute.{module}"), name
            )
        except ModuleNotFoundError as error:
            if cmd_name != "serve":
                raise
            return _serve_without(error.name)
        return found


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(
    importlib.metadata.version("hybrid-compute")
    if any(importlib.metadata.distributions(name="hybrid-compute"))
    else "unknown (not installed)",
    prog_name="hybrid-compute",
)
def main() -> None:
    """Run each piece of work where it runs best."""


def _serve_without(missing: str | None) -> click.Command:
    @click.command(context_settings={"ignore_unknown_options": True})
    @click.argument("arguments", nargs=-1)
    def serve(arguments: tuple[str, ...]) -> None:
        """Serve tasks (needs the extra `server`)."""
        raise click.UsageError(f"serve needs {missing}: pip install 'hybrid-compute[server]'")

    return serve
