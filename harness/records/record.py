"""The record: the outcome of one implementation in one bout. One is written whatever happened.

Everything is plain data with units in the names. Figures that follow from others (tokens/s, TFLOP/s, joules per token,
share of the floor) are filled in once, by ``harness.records.derive``.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import msgspec

from harness.cases.case import Case
from harness.records.bounds import Amount, Elapsed, LogRatio, Nanoseconds

SCHEMA = 1

Status = Literal["ok", "disagrees", "unsupported", "error", "oom", "crashed", "timeout", "impossible"]
STATUSES: tuple[str, ...] = get_args(Status)
FAILURES = ("disagrees", "error", "oom", "crashed", "timeout", "impossible")
"""Statuses that make a run end with exit code 1. ``unsupported`` is an answer, not a failure."""

CACHE_MARGIN = 5
"""Weights count as cold when those touched over all calls exceed the last-level cache this many times."""


def plain_text(foreign: object) -> str:
    """Text from somebody else's code, fit for a file: what UTF-8 cannot hold is written out as an escape."""
    return str(foreign).encode("utf-8", "backslashreplace").decode("utf-8")


class ImplInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which implementation, exactly. ``note`` is what must be said about it: ``never verified``."""

    name: str
    family: str
    version: str = "1"
    source_hash: str = "unknown"
    origin: str = ""
    summary: str = ""
    note: str = ""


Values = dict[str, int | str]
"""Settings of an implementation: how large its tiles are, which of its kernels run."""


class Chosen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """With which configuration an implementation ran, whether somebody tuned it, and where it comes from."""

    values: Values
    tuned: bool = False
    source: str = "default"


class Timing(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Raw samples, in the order they were taken, all of them, and how they were taken.

    A sample is the time of one call: ``calls_per_sample`` calls were timed together and divided. ``clock`` is what
    ``samples_ns`` were read from: ``wall`` (synchronised before and after), ``cuda_graph`` (wall time of a replay).
    ``device_ns`` are CUDA events around the very same calls. ``control_ns`` are the samples of the bout's A/A control:
    the same implementation entered a second time; only the control implementation's record has them. ``processes``
    numbers the worker process of each sample where there were several; None stands for one.
    """

    clock: str
    cache: Literal["hot", "cold"]
    samples_ns: list[Nanoseconds]
    rounds: list[int]
    calls_per_sample: int
    prepare_ns: int
    first_call_ns: int
    warmup_calls: int
    warm: bool
    stopped: Literal["interval", "budget", "rounds"]
    device_ns: list[Nanoseconds] | None = None
    control_ns: list[Nanoseconds] | None = None
    processes: list[int] | None = None
    noise_floor: LogRatio | None = None
    median_ns: Elapsed | None = None
    min_ns: Elapsed | None = None
    p05_ns: Elapsed | None = None
    p95_ns: Elapsed | None = None
    interval_ns: tuple[Elapsed, Elapsed] | None = None
    min_interval_ns: tuple[Elapsed, Elapsed] | None = None


class TensorError(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How far one tensor is from the float64 oracle. Errors are relative Frobenius norms; a row is a token.

    ``row_tolerance`` holds for the worst column of ``y`` and of the gradient of ``x`` too.
    """

    rel_error: float
    worst_row: float
    max_abs: float
    cosine: float
    nonfinite: int
    rel_tolerance: float
    row_tolerance: float
    reference_rel_error: float
    reference_worst_row: float
    worst_column: float = 0.0

    @property
    def nearest(self) -> tuple[float, float]:
        """The error nearest to its tolerance, of the whole, its worst row and its worst column; and that tolerance."""
        held = (
            (self.rel_error, self.rel_tolerance),
            (self.worst_row, self.row_tolerance),
            (self.worst_column, self.row_tolerance),
        )
        return max(held, key=lambda pair: pair[0] / pair[1] if pair[1] else math.inf)

    @property
    def used(self) -> float:
        """Share of its tolerance that the nearest error takes; above 1 it does not agree."""
        error, tolerance = self.nearest
        return error / tolerance if tolerance else math.inf


class Agreement(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Whether the implementation computes the layer, and which rule said so. ``tensors``: ``y`` and the gradients."""

    passed: bool
    rule: str
    checks: int = 0
    rows_checked: int = 0
    rows_total: int = 0
    ambiguous_tokens: int = 0
    deterministic: bool | None = None
    tensors: dict[str, TensorError] = {}


class Memory(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Where the bytes go, one call alone.

    ``peak_bytes`` is the highest the allocator stood above weights and inputs, ``workspace_bytes`` that peak without
    the output. ``prepared_bytes`` are what prepare made and keeps, such as copies of the weights. ``saved_bytes`` are
    what stays alive between forward and backward. ``os_peak_bytes`` is the driver's or kernel's view of the same call.
    """

    status: Literal["ok", "unavailable"]
    reason: str = ""
    method: str = ""
    weights_bytes: int = 0
    prepared_bytes: int | None = None
    peak_bytes: int | None = None
    output_bytes: int | None = None
    workspace_bytes: int | None = None
    saved_bytes: int | None = None
    os_peak_bytes: int | None = None

    @property
    def beside_weights_bytes(self) -> int | None:
        """Bytes a call needs beside weights and inputs: its peak, and what was prepared; None where not measured."""
        return None if self.peak_bytes is None else self.peak_bytes + (self.prepared_bytes or 0)


class Energy(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Energy of a sustained window of calls, from the board's total-energy counter; or why there is none."""

    status: Literal["ok", "unreliable", "unavailable"]
    reason: str = ""
    method: str = ""
    joules: Amount | None = None
    window_s: Amount | None = None
    calls: int | None = None
    idle_watts: Amount | None = None
    temperature_c: tuple[int, int] | None = None
    sm_clock_mhz: tuple[int, int] | None = None
    power_limit_watts: Amount | None = None
    throttle_reasons: list[str] = []
    mean_watts: Amount | None = None
    joules_per_call: Amount | None = None
    joules_per_token: Amount | None = None


class Balance(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How the tokens of one call spread over the experts. Definitions and sources: ``harness.layer.balance``.

    ``*_floor`` is what perfectly uniform routing of so few tokens would show.
    """

    histogram: list[int]
    max_over_mean: Amount
    max_vio: Amount
    cv2: Amount
    normalised_entropy: Amount
    gini: Amount
    distinct_experts: int
    dead_experts: int
    drop_rate: Amount
    tile_rows: int
    tile_padding: Amount
    max_over_mean_floor: Amount
    cv2_floor: Amount
    tokens_per_expert_choice: list[int] | None = None


class Work(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What had to be done, the least time it can take, and how close the measurement came.

    ``distinct_experts`` is the mean over the timed rounds. ``floor_ns`` follows from the ceilings measured on this
    machine, ``floor_datasheet_ns`` from the datasheet; ``bound`` says which side of the roofline decides. A share is
    floor / median time: 1 would be an ideal kernel.
    """

    distinct_experts: Amount
    useful_flops: Amount
    min_bytes: Amount
    floor_ns: Nanoseconds | None = None
    floor_datasheet_ns: Nanoseconds | None = None
    bound: Literal["bandwidth", "compute"] | None = None
    tokens_per_second: Amount | None = None
    tflops: Amount | None = None
    gbytes_per_second: Amount | None = None
    share_of_floor: Amount | None = None
    share_of_datasheet_floor: Amount | None = None
    share_of_gemm_ceiling: Amount | None = None
    share_of_read_ceiling: Amount | None = None


class Neighbours(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Who else was at work while the rounds ran; None where this machine does not tell.

    Shares are of all the machine's CPU time: ``others_share`` went to other processes, ``steal_share`` was taken by the
    hypervisor. ``gpu_processes`` counts other processes that held memory on the case's GPU.
    """

    others_share: float | None = None
    steal_share: float | None = None
    gpu_processes: int | None = None


class Record(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The outcome of one implementation in one bout.

    ``bout`` is shared by the records measured side by side; ``configuration`` is there where the implementation told;
    ``flags`` are plain words such as ``drift`` or ``throttled``; every status but ``ok`` has a ``reason`` that a person
    can act on.
    """

    case: Case
    case_id: str
    impl: ImplInfo
    status: Status
    environment_id: str
    schema: int = SCHEMA
    reason: str = ""
    log_tail: str = ""
    bout: str = ""
    taken_at: str = ""
    configuration: Chosen | None = None
    timing: Timing | None = None
    agreement: Agreement | None = None
    memory: Memory | None = None
    energy: Energy | None = None
    balance: Balance | None = None
    work: Work | None = None
    neighbours: Neighbours | None = None
    flags: list[str] = []

    def __post_init__(self) -> None:
        self.reason, self.log_tail = plain_text(self.reason), plain_text(self.log_tail)
        if self.schema != SCHEMA:
            raise ValueError(f"schema = {self.schema}: this version of moebench reads schema {SCHEMA}")
        if self.status != "ok" and not self.reason:
            raise ValueError(f"a record with status {self.status!r} needs a reason")
        if self.status == "disagrees" and self.timing is not None:
            raise ValueError("what disagrees is never timed")

    @property
    def key(self) -> tuple[str, str]:
        """What a run holds at most one record of."""
        return self.case_id, self.impl.name
