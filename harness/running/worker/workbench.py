"""What a worker has at hand for any job: its answers, its flight recorder, its log, and the layer it holds."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from harness.running import jobs
from harness.running.blackbox import BlackBox

if TYPE_CHECKING:
    from pathlib import Path

    from harness.cases.case import Case
    from harness.layer.weights import Weights
    from harness.records.record import Record


class Workbench:
    """Shared by everything one process does; ``answer`` numbers the outcomes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.box = BlackBox(folder / jobs.BLACK_BOX)
        self._answers = 0
        self._log = (folder / jobs.LOG).open("rb")
        self._announced = ("", 0)
        self._printed: dict[str, bytes] = {}
        self._weights: Weights | None = None
        self._layer_key = ""

    def answer(self, outcome: jobs.Outcome) -> None:
        """Leave the next outcome for the parent."""
        jobs.write_outcome(self.folder, self._answers, outcome)
        self._answers += 1

    def note(self, case_id: str, impl: str, stage: str) -> None:
        """Tell the flight recorder what comes next, and where the log stands; keep what was printed before."""
        size = os.fstat(self._log.fileno()).st_size
        speaker, since = self._announced
        if size > since:
            self._log.seek(max(since, size - jobs.LOG_TAIL_BYTES))
            self._printed[speaker] = (self._printed.get(speaker, b"") + self._log.read())[-jobs.LOG_TAIL_BYTES :]
        self._announced = impl, size
        self.box.write(case_id, impl, stage, size)

    def layer(self, case: Case) -> Weights:
        """Return the case's weights, made anew only when the last case ran on others."""
        from harness.layer.weights import make_weights

        if self._weights is None or case.layer_key != self._layer_key:
            self._weights = None  # the old layer goes before the new one comes
            self._weights, self._layer_key = make_weights(case), case.layer_key
        return self._weights.serving(case.shape)

    def with_log(self, record: Record) -> Record:
        """Put what an implementation printed before what it raised into the record of its failure."""
        printed = self._printed.pop(record.impl.name, b"")[-jobs.LOG_TAIL_BYTES :].decode(errors="replace")
        if record.status not in {"ok", "unsupported"}:
            record.log_tail = (printed + record.log_tail)[-jobs.LOG_TAIL_BYTES :]
        return record


def start_torch() -> None:
    """Import torch before anybody's module does and is charged for it, and have float32 products in full precision.

    Some container images turn TF32 on by an environment variable; float32 is judged as float32.
    """
    import torch

    torch.set_float32_matmul_precision("highest")


def take_device(case: Case) -> None:
    """Make a case's GPU the current one: Triton and side streams take that."""
    if case.device.startswith("cuda"):
        import torch

        torch.cuda.set_device(case.device)
