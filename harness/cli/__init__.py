"""The ``moebench`` command. Nothing here imports torch, so ``moebench --help`` answers at once."""

from __future__ import annotations

from typing import NoReturn

from harness import terminal
from harness.cli import (  # noqa: F401 (each puts its commands into the app)
    calibrate,
    comparing,
    exporting,
    history,
    measuring,
    recording,
    showing,
    traffic,
    tuning,
)
from harness.cli.app import BAD_INPUT, INTERRUPTED, NOTHING, app

__all__ = ["app", "main"]


def _exit_with(error: Exception, code: int) -> NoReturn:
    terminal.fail(str(error))
    raise SystemExit(code)


def main() -> None:
    """Entry point: one line for bad input and for a machine that cannot measure, no traceback."""
    from harness.running.machine import MachineError

    try:
        app()
    except ValueError as error:
        _exit_with(error, BAD_INPUT)
    except MachineError as error:
        _exit_with(error, NOTHING)
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
