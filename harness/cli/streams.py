"""What goes wrong with files and with the terminal itself, said in one line; and text that a terminal cannot show."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys

SPELLED = {"µ": "u", "→": "->", "≈": "~", "…": "...", "★": "*", "†": "+", "·": ".", "█": "#"}
"""What some encodings lack, such as that of ``LC_ALL=C``, and what stands for it: a unit must not become a ``?``."""


def spell_out() -> None:
    """Have standard output and error write what their encoding lacks in other characters, rather than fail."""
    codecs.register_error("moebench", _spelled)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="moebench")


def _spelled(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(SPELLED.get(character, "?") for character in lacking), error.end


def os_words(error: OSError) -> str:
    """Say which file the system refused, and why; standard output where it was that."""
    why = error.strerror or str(error) or type(error).__name__
    if error.filename is not None:
        return f"{error.filename}: {why}"
    try:
        flush_output()  # what could not be written is still in it, and fails again
    except OSError:
        return f"standard output: {why}"
    return f"while writing: {why}"


def flush_output() -> None:
    """Write out what standard output holds; whoever closed it wants nothing."""
    if sys.stdout is not None:
        sys.stdout.flush()


def give_up_output() -> None:
    """Drop what standard output still holds and cannot write: Python would complain about it once more at its end."""
    with contextlib.suppress(OSError):
        flush_output()
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
