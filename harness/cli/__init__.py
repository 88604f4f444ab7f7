"""The ``moebench`` command. Nothing here imports torch, so ``moebench --help`` answers at once."""

from __future__ import annotations

import signal
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
from harness.cli.app import BAD_INPUT, FAILURES, INTERRUPTED, NOTHING, app
from harness.cli.streams import flush_output, give_up_output, os_words, spell_out

__all__ = ["app", "main"]


def _exit_with(error: str, code: int, log: str = "") -> NoReturn:
    terminal.fail(error, log)
    raise SystemExit(code)


def main() -> None:
    """Entry point: one line for bad input, a file that fails and a machine that cannot measure, no traceback.

    SIGTERM does what Ctrl-C does: what was measured is kept, what was begun is put away.
    """
    from harness.running.machine import MachineError

    spell_out()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends us politely gets what Ctrl-C gets
    try:
        _call()
    except BrokenPipeError:  # whoever read along has seen enough
        give_up_output()
        raise SystemExit(FAILURES) from None
    except OSError as error:
        said = os_words(error)
        give_up_output()
        _exit_with(said, BAD_INPUT)
    except ValueError as error:
        _exit_with(str(error), BAD_INPUT)
    except MachineError as error:
        said, _, log = str(error).partition("\n")
        _exit_with(said, NOTHING, log)
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None


def _call() -> None:
    """Call the command, and have all its output written while failing can still be said."""
    try:
        app()
    finally:
        flush_output()
