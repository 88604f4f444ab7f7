"""What parent and worker say to each other: a job file in, one outcome file a step out. Plain JSON, never pickle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from harness.cases.case import Case, PlannedCase
from harness.cases.shape import Shape
from harness.cases.traffic import Traffic
from harness.fitting.results import Fit, Shown
from harness.records.environment import Ceilings, Device
from harness.records.record import ImplInfo, Record, Values
from harness.records.store import replace_file
from harness.records.trials import Trial

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

JOB, LOG, BLACK_BOX = "job.json", "log.txt", "blackbox"
PARENT_VARIABLE, DATA_VARIABLE = "MOEBENCH_PARENT", "MOEBENCH_DATA_BYTES"
"""Environment variables of a worker: its parent's process id, and the private memory it may ask for (0: any)."""
CANDIDATE_MARK = "@"
"""Between an implementation's name and what tells its candidates apart."""
WEIGHTS_STAGE = "weights"
"""What a worker announces first of every bout, before any implementation has a part in it."""
LOG_TAIL_BYTES = 4000
"""Of what a worker printed, as much goes into a record."""


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """An implementation as the worker found it.

    ``broken`` says why its module could not be imported, ``missing`` what it needs that is not here, ``note`` what has
    to be said about it.
    """

    name: str
    family: str = ""
    version: str = ""
    source_hash: str = "unknown"
    origin: str = ""
    summary: str = ""
    devices: tuple[str, ...] = ()
    passes: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    broken: str = ""
    missing: str = ""
    note: str = ""
    tunable: bool = False

    @property
    def impl(self) -> ImplInfo:
        """What a record says of it."""
        return ImplInfo(
            name=self.name,
            family=self.family or "peer",
            version=self.version,
            source_hash=self.source_hash,
            origin=self.origin,
            summary=self.summary,
            note=self.note,
        )


class ProbeJob(msgspec.Struct, tag="probe", kw_only=True):
    """Find the implementations and the devices.

    ``skip`` are modules that took an earlier worker down, and how; ``files`` are the user's own, by absolute path.
    """

    skip: dict[str, str] = {}
    files: tuple[str, ...] = ()


class ProbeOutcome(msgspec.Struct, tag="probed", kw_only=True):
    """What the machine has. ``facts`` are what ``doctor`` wants to know of torch."""

    implementations: list[Listed]
    devices: dict[str, Device]
    facts: dict[str, object]


class CeilingsJob(msgspec.Struct, tag="ceilings", kw_only=True):
    """Measure a device's ceilings, and its idle power where there is a meter."""

    device: str
    dtypes: tuple[str, ...]


class CeilingsOutcome(msgspec.Struct, tag="ceilings-measured", kw_only=True):
    """What was measured."""

    ceilings: Ceilings


class BoutsJob(msgspec.Struct, tag="bouts", kw_only=True):
    """Run bouts one after another, within ``budget_s`` together; ``timed`` False asks for agreement only."""

    planned: list[PlannedCase]
    environment_id: str
    budget_s: float
    timed: bool = True
    ceilings: dict[str, Ceilings] = {}
    skip: dict[str, str] = {}
    files: tuple[str, ...] = ()


class TurnsJob(msgspec.Struct, tag="turns", kw_only=True):
    """Run bouts whose rounds are conducted by the parent, over the socket with the descriptor ``wire``.

    ``homes`` says of top-level modules in which file or folder they must lie; what was imported from elsewhere is
    reported. Memory is metered only when ``metered``, energy never.
    """

    planned: list[PlannedCase]
    environment_id: str
    wire: int
    metered: bool = True
    ceilings: dict[str, Ceilings] = {}
    skip: dict[str, str] = {}
    homes: dict[str, str] = {}


class BoutOutcome(msgspec.Struct, tag="bout", kw_only=True):
    """One bout's records, the seconds it took, and those of them spent inside measured calls.

    ``ceilings`` are there when the bout measured them again and found better ones.
    """

    case_id: str
    records: list[Record]
    measuring_s: float
    wall_s: float
    ceilings: Ceilings | None = None


class ReadyOutcome(msgspec.Struct, tag="ready"):
    """The worker has imported everything and starts on its bouts. ``broken`` are modules that failed, and why."""

    broken: dict[str, str] = {}


class CalibrationJob(msgspec.Struct, tag="calibration", kw_only=True):
    """Run ``count`` trials of an implementation against itself, ``trial_s`` each, numbered from ``first`` on.

    ``baseline`` is the dense baseline's name; empty where there is none.
    """

    case: Case
    impl: str
    baseline: str
    process: int
    first: int
    count: int
    trial_s: float
    skip: dict[str, str] = {}


class TrialOutcome(msgspec.Struct, tag="trial", kw_only=True):
    """One trial's raw samples."""

    trial: Trial


class TuneJob(msgspec.Struct, tag="tune", kw_only=True):
    """Look for a faster configuration of ``impl`` in each case, within ``budget_s`` together.

    ``avoid`` are names of candidates that took an earlier worker down.
    """

    impl: str
    cases: list[Case]
    environment_id: str
    budget_s: float
    avoid: list[str] = []
    skip: dict[str, str] = {}


class TunedOutcome(msgspec.Struct, tag="tuned", kw_only=True):
    """What was found in one case: records of the default and of the best, measured side by side at the end.

    ``best`` equals ``default`` when no candidate seemed faster; ``records`` then are those of the first bout's default.
    ``tried`` counts the candidates that were asked, ``failed`` those of them that could not be timed, by reason.
    ``whole`` says that no neighbour of the best was left untried.
    """

    case_id: str
    default: Values
    best: Values
    records: list[Record]
    tried: int = 0
    failed: dict[str, int] = {}
    whole: bool = False


class RefusedOutcome(msgspec.Struct, tag="refused", kw_only=True):
    """The implementation cannot be timed in this case, and why."""

    reason: str


class ShowJob(msgspec.Struct, tag="show", kw_only=True):
    """Route a traffic's tokens and look at them."""

    shape: Shape
    traffic: Traffic


class ShownOutcome(msgspec.Struct, tag="shown"):
    """What they look like."""

    shown: Shown


class FitJob(msgspec.Struct, tag="fit", kw_only=True):
    """Find the generator that resembles each of these layers of a trace, at most so many tokens of each.

    ``phase`` is ``prefill``, ``decode`` or empty for both.
    """

    path: str
    layers: tuple[int, ...]
    phase: str
    tokens: int


class FitOutcome(msgspec.Struct, tag="fitted"):
    """One layer's fit."""

    fit: Fit


class DoneOutcome(msgspec.Struct, tag="done"):
    """The job is done. A worker that ends without saying so has died, whatever its exit code."""


Job = ProbeJob | CeilingsJob | BoutsJob | TurnsJob | CalibrationJob | TuneJob | ShowJob | FitJob
Outcome = (
    ProbeOutcome
    | CeilingsOutcome
    | BoutOutcome
    | TrialOutcome
    | TunedOutcome
    | RefusedOutcome
    | ReadyOutcome
    | ShownOutcome
    | FitOutcome
    | DoneOutcome
)


def read_job(folder: Path) -> Job:
    """Return the job the parent left in a folder."""
    job: Job = msgspec.json.decode((folder / JOB).read_bytes(), type=Job)
    return job


def write_outcome(folder: Path, number: int, outcome: Outcome) -> None:
    """Leave outcome number ``number`` for the parent, whole or not at all."""
    replace_file(folder / f"outcome-{number:05}.json", outcome)


def outcomes_from(folder: Path, number: int) -> Iterator[Outcome]:
    """Yield the outcomes from a number on, as far as the worker has got."""
    while (path := folder / f"outcome-{number:05}.json").exists():
        yield msgspec.json.decode(path.read_bytes(), type=Outcome)
        number += 1
