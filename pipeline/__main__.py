"""`python -m predecode.pipeline` is the command `predecode`."""

from typing import NoReturn

from predecode.pipeline.quick_start import run_to_end


def run() -> NoReturn:
    """Runs the command of this process's command line."""
    run_to_end(_main)


def _main() -> int:
    from predecode.pipeline.cli import main  # Here, for its imports' exit handlers are called, too.

    return main()


if __name__ == "__main__":
    run()
