"""The command `subtitled`, also as `python -m subtitled`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; without the packages of the extra `daemon`, exit with the command that installs them."""
    try:
        from subtitled.cli import main as run
    except ModuleNotFoundError as error:
        sys.exit(
            f"subtitled: the Python package {error.name} is missing; for the daemon, install: pip install 'subtitled[daemon]'"
        )
    except KeyboardInterrupt:
        sys.exit(130)  # while the modules are loaded, which takes a second
    run()


if __name__ == "__main__":
    main()
