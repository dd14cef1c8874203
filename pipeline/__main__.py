"""`python -m predecode.pipeline` is the command `predecode`."""

from typing import NoReturn

from predecode.pipeline.cli import main
from predecode.pipeline.quick_start import run_to_end


def run() -> NoReturn:
    """Runs the command of this process's command line."""
    run_to_end(main)


if __name__ == "__main__":
    run()
