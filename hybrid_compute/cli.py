"""The entry point of the command `hybrid-compute`.

Owns one thing: what happens where the extra `cli` is not installed. The commands themselves are
in `_commands`, which needs it.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; exit with status 2 if click or rich is missing."""
    try:
        from hybrid_compute._commands import main as commands  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("click", "rich"):
            raise
        print(  # noqa: T201 - this is a command
            f"hybrid-compute: the command line needs {error.name}: "
            "pip install 'hybrid-compute[cli]'",
            file=sys.stderr,
        )
        sys.exit(2)
    commands(prog_name="hybrid-compute")


if __name__ == "__main__":
    main()
