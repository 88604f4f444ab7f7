"""Recording a trace, seen from the parent: the job, and the process that does it. Imports no torch."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

import msgspec

import harness

ANSWER, LOG = "answer.json", "log.txt"
CHILD = "harness.integrations.recording"
LOG_TAIL_BYTES = 2000
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


class RecordingJob(msgspec.Struct, frozen=True, kw_only=True):
    """What to record. ``template`` empty: the chat template where there is one. ``seed`` None: greedy decoding.

    ``decode_tokens`` are the most that follow each prompt, ``limit`` the most prompts (0: all), ``device`` empty the
    best there is.
    """

    model: str
    prompts: str
    out: str
    decode_tokens: int = 64
    limit: int = 0
    template: Literal["chat", "raw", ""] = ""
    seed: int | None = None
    device: str = ""


class Recorded(msgspec.Struct, tag="recorded"):
    """All went well; the digest of the trace that was left."""

    digest: str


class Refused(msgspec.Struct, tag="refused"):
    """Why nothing was recorded, in one line."""

    reason: str


class RecordingError(Exception):
    """The recording process died; the message says what it printed last."""


def record(job: RecordingJob) -> Recorded:
    """Run a model in a process of its own, without the network, and leave a trace in ``job.out``.

    Raises
    ------
    ValueError
        one line, for a model, prompts or a place that will not do.
    RecordingError
        when the process dies of something else.
    """
    out = Path(job.out)
    if not out.absolute().parent.is_dir():
        raise ValueError(f"--out = {job.out!r}: a file in a directory that exists")
    with tempfile.TemporaryDirectory(prefix="moebench-") as name:
        folder = Path(name)
        with (folder / LOG).open("wb") as log:
            # -P: what lies in the current directory does not shadow what is installed
            command = [sys.executable, "-P", "-m", CHILD, str(folder), msgspec.json.encode(job).decode()]
            done = subprocess.run(  # noqa: S603 (our own words)
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=_environment(), check=False
            )
        if (folder / ANSWER).exists():
            answer = msgspec.json.decode((folder / ANSWER).read_bytes(), type=Recorded | Refused)
            if isinstance(answer, Refused):
                raise ValueError(answer.reason)
            return answer
        said = (folder / LOG).read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
    raise RecordingError(f"the recording process ended with code {done.returncode}: {said or 'it printed nothing'}")


def _environment() -> dict[str, str]:
    """Variables of the child: no network for the libraries it loads, the checkout on its path."""
    root = Path(harness.__file__).resolve().parent.parent
    checkout = [str(root)] if (root / "pyproject.toml").exists() else []
    paths = [*checkout, os.environ.get("PYTHONPATH", "")]
    return {**os.environ, **OFFLINE, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
