"""The environment a run was taken in, kept once beside its records."""

from __future__ import annotations

import hashlib

import msgspec

from harness.records.bounds import Amount, Count, Nanoseconds


class Ceilings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The best this device was seen to do, measured at the start of the run. Bytes and FLOPs per second.

    Reading is the best of a sum and a matrix times a vector, over memory far larger than the last-level cache or, for
    ``cached_read``, over what fits into it; ``copy`` counts bytes both ways. GEMM rates are by dtype, the best over the
    shapes tried.
    ``idle_watts`` is the board's power with a context and no kernels, None without a meter.
    """

    copy_bytes_per_second: Amount
    read_bytes_per_second: Amount
    cached_read_bytes_per_second: Amount
    gemm_flops_per_second: dict[str, Amount]
    cache_bytes: int
    launch_ns: Nanoseconds
    seconds: Amount = 0.0
    idle_watts: Amount | None = None

    def raised_by(self, other: Ceilings) -> Ceilings:
        """Take the better of two measurements, figure by figure: a ceiling is the best that was ever seen."""
        gemm = {
            dtype: max(self.gemm_flops_per_second.get(dtype, 0.0), other.gemm_flops_per_second.get(dtype, 0.0))
            for dtype in self.gemm_flops_per_second | other.gemm_flops_per_second
        }
        rates = ("copy_bytes_per_second", "read_bytes_per_second", "cached_read_bytes_per_second")
        best = {name: max(getattr(self, name), getattr(other, name)) for name in rates}
        return msgspec.structs.replace(self, **best, gemm_flops_per_second=gemm, seconds=self.seconds + other.seconds)


class Device(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One device cases can run on. ``cache_bytes`` is the last-level cache; ``datasheet`` names the matched row."""

    name: str
    kind: str
    memory_bytes: int
    cache_bytes: int
    cores: int | None = None
    threads: int | None = None
    capability: str | None = None
    uuid: str | None = None
    driver: str | None = None
    power_limit_watts: Amount | None = None
    mig: bool | None = None
    datasheet: str | None = None


class Rates(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What the verdict said of trials with one planted slowdown, in percent; 0 is an A/A trial."""

    planted_percent: Amount
    slower: Count = 0
    faster: Count = 0
    same: Count = 0
    ambiguous: Count = 0

    @property
    def trials(self) -> int:
        """How many verdicts there were."""
        return self.slower + self.faster + self.same + self.ambiguous


class Calibration(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How far this machine's verdicts can be trusted: ``moebench calibrate``.

    ``rates`` are the verdicts at ``threshold``, ``rates_at`` those on the same samples at other thresholds, by percent.
    ``resolves`` holds, by seconds of measuring two implementations side by side, the smallest slowdown that 95 of 100
    trials would have found. ``process_floor`` is the 95th percentile of the absolute log-ratio to the control between
    two worker processes that ran the same code; None with fewer than 3 processes. ``others_share`` and ``steal_share``
    are the shares of all CPUs' time that other processes and other virtual machines had meanwhile.
    """

    case: str
    impl: str
    trials: int
    threshold: Amount
    trial_s: Amount
    call_ns: Amount
    rates: list[Rates]
    resolves: dict[str, Amount]
    processes: int
    process_floor: Amount | None
    taken_at: str
    others_share: Amount | None = None
    steal_share: Amount | None = None
    rates_at: dict[str, list[Rates]] = {}

    def __post_init__(self) -> None:
        if not self.unplanted:
            raise ValueError("rates: some A/A trials, with 0 % planted")

    @property
    def unplanted(self) -> Rates | None:
        """The verdicts on identical code."""
        return next((row for row in self.rates if row.planted_percent == 0 and row.trials), None)


class Environment(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Everything about the machine that can move a number.

    ``devices``, ``ceilings`` and ``calibrations`` go by the devices' names in cases: ``cpu``, ``cuda:0``.
    """

    hostname: str
    system: str
    kernel: str
    python: str
    versions: dict[str, str | None]
    devices: dict[str, Device]
    container: str | None = None
    governor: str | None = None
    load_average: Amount | None = None
    git_sha: str | None = None
    git_dirty: str | None = None
    variables: dict[str, str] = {}
    ceilings: dict[str, Ceilings] = {}
    calibrations: dict[str, Calibration] = {}

    @property
    def environment_id(self) -> str:
        """Hash of what stays the same between two runs on one machine: not what was measured, load and revision."""
        lasting = msgspec.to_builtins(
            msgspec.structs.replace(self, ceilings={}, load_average=None, git_sha=None, git_dirty=None)
        )
        del lasting["calibrations"]  # came after the first records were kept: not even its name may count
        return hashlib.sha256(msgspec.json.encode(lasting, order="sorted")).hexdigest()[:12]
