"""A bout from beginning to end: whatever an implementation does, everybody has one whole record."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import torch
from torch import Tensor

from harness.layer.weights import make_weights
from harness.measure.bout import Bout
from harness.measure.clocks import clock_for
from harness.measure.result import describe
from harness.measure.settings import read_settings
from harness.measure.surroundings import NOBODY
from harness.measure.timing import Timed, TimedSection
from harness.records.environment import Ceilings
from harness.records.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.layer.contract import Forward, Layer, Routing

MS = 1e6
S = 1e9


def failing(error: BaseException, when: str, kit: Any) -> Any:
    def prepare(layer: Layer) -> Forward:
        if when == "prepare":
            raise error

        def forward(x: Tensor, routing: Routing) -> Any:
            raise error

        return forward

    def refuses(_case: Any) -> str | None:
        if when == "asking":
            raise error
        return None

    return kit.implementation(prepare, "bad", unsupported_by=refuses)


def assert_whole(record: Record) -> None:
    """Every record survives the strict decoder of the parent, and says what its status calls for."""
    assert msgspec.json.decode(msgspec.json.encode(record), type=Record) == record
    assert record.case_id == record.case.case_id
    assert record.environment_id == "here"
    assert record.bout
    assert record.taken_at
    assert record.balance is not None
    timed = record.status in {"ok", "impossible"}
    assert (record.timing is not None) == (record.work is not None) == (record.memory is not None) == timed
    assert (record.energy is not None) == (record.neighbours is not None) == timed
    if record.status != "ok":
        assert record.reason
    if record.status in {"ok", "impossible", "disagrees"}:
        assert record.agreement is not None
        assert record.agreement.passed == (record.status != "disagrees")


def test_everybody_right_has_a_whole_record(kit: Any) -> None:
    records = kit.bout(
        [
            kit.implementation(kit.costing(2 * MS), "a"),
            kit.implementation(kit.costing(3 * MS), "b"),
            kit.implementation(kit.costing(MS, kit.plain_ffn), "dense", family="dense"),
        ]
    )
    for record in records.values():
        assert_whole(record)
        assert record.status == "ok"
        assert record.agreement.checks == 3
        assert record.memory.status == "ok"
        assert record.memory.peak_bytes > 0
        assert (record.energy.status, record.energy.reason) == ("unavailable", "no board in a test")
        assert record.timing.noise_floor == 0
    assert len({record.bout for record in records.values()}) == 1
    assert {name: record.timing.median_ns for name, record in records.items()} == {"a": 2e6, "b": 3e6, "dense": 1e6}
    assert [name for name, record in records.items() if record.timing.control_ns] == ["dense"]


@pytest.mark.parametrize("pass_", ["forward", "training"])
@pytest.mark.parametrize("scope", ["experts", "layer"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_every_pass_scope_and_dtype(kit: Any, dtype: str, scope: str, pass_: str) -> None:
    case = kit.case(dtype=dtype, scope=scope, pass_=pass_, shared_experts=1, shared_hidden=8)
    entrants = [
        kit.implementation(kit.costing(2 * MS), "a"),
        kit.implementation(kit.costing(MS, kit.plain_ffn), "dense", family="dense"),
    ]
    for record in kit.bout(entrants, case, 0.2 * S).values():
        assert_whole(record)
        assert record.status == "ok", record.reason
        assert (record.memory.saved_bytes is not None) == (pass_ == "training")


@pytest.mark.parametrize("tokens", [0, 1])
def test_hardly_any_token(kit: Any, tokens: int) -> None:
    (record,) = kit.bout([kit.implementation(kit.costing(MS))], kit.case(tokens), 0.1 * S).values()
    assert_whole(record)
    assert record.status == "ok"


@pytest.mark.parametrize("when", ["asking", "prepare", "call"])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("no"), "error"),
        (SystemExit(1), "error"),
        (KeyboardInterrupt(), "error"),
        (MemoryError(), "oom"),
        (torch.OutOfMemoryError("out of memory"), "oom"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_nobodys_failure_is_anybody_elses(kit: Any, error: BaseException, status: str, when: str) -> None:
    records = kit.bout([failing(error, when, kit), kit.implementation(kit.costing(MS), "good")], budget_ns=0.2 * S)
    assert records["bad"].status == status
    assert type(error).__name__ in records["bad"].reason
    assert type(error).__name__ in records["bad"].log_tail
    assert records["good"].status == "ok"
    for record in records.values():
        assert_whole(record)


def test_what_is_not_supported_says_so_and_is_never_built(kit: Any) -> None:
    def prepare(_layer: Layer) -> Forward:
        pytest.fail("built")

    entrants = [
        kit.implementation(prepare, "a", dtypes=("bf16",)),
        kit.implementation(prepare, "b", unsupported_by=lambda _case: "not on a Sunday"),
    ]
    records = kit.bout(entrants)
    assert records["a"].reason == "a does not do 'fp32', only bf16"
    assert records["b"].reason == "not on a Sunday"
    assert {record.status for record in records.values()} == {"unsupported"}
    for record in records.values():
        assert_whole(record)


def test_who_is_untimed_by_passes_the_gate_and_is_never_timed(kit: Any) -> None:
    """What an interpreter takes says nothing about the kernels it runs."""
    entrants = [
        kit.implementation(kit.costing(MS), "checked", untimed_by=lambda _case: "runs under an interpreter"),
        kit.implementation(wrong_by_one(kit), "wrong", untimed_by=lambda _case: "runs under an interpreter"),
        kit.implementation(kit.costing(MS), "timed", untimed_by=lambda _case: None),
    ]
    records = kit.bout(entrants, budget_ns=0.2 * S)
    checked = records["checked"]
    assert (checked.status, checked.reason) == ("unsupported", "runs under an interpreter")
    assert checked.agreement.passed
    assert records["wrong"].status == "disagrees"
    assert records["timed"].status == "ok"
    for record in records.values():
        assert_whole(record)
    validated = kit.bout(entrants[:1], around=kit.around(timed=False))
    assert validated["checked"].status == "ok"


def wrong_by_one(kit: Any) -> Any:
    return lambda layer: lambda x, routing: kit.experts(layer, x, routing) + 1


def test_who_fails_when_asked_whether_its_time_counts_has_failed(kit: Any) -> None:
    def ask(_case: Any) -> None:
        raise ValueError("no idea")

    records = kit.bout([kit.implementation(kit.costing(MS), untimed_by=ask)])
    assert (records["mine"].status, records["mine"].reason) == ("error", "ValueError: no idea")


def test_an_execution_nobody_can_do_is_refused_for_all(kit: Any) -> None:
    records = kit.bout([kit.implementation(name="a"), kit.implementation(name="b")], kit.case(execution="graph"))
    assert {record.reason for record in records.values()} == {"CUDA graphs need a CUDA device"}
    assert {record.status for record in records.values()} == {"unsupported"}


def test_who_disagrees_is_never_timed(kit: Any) -> None:
    calls = []

    def prepare(layer: Layer) -> Forward:
        def forward(x: Tensor, routing: Routing) -> Any:
            calls.append(kit.clock.now)
            return 1.02 * kit.experts(layer, x, routing)

        return forward

    records = kit.bout([kit.implementation(prepare, "bad"), kit.implementation(kit.costing(MS), "good")])
    assert len(calls) == 1
    assert records["bad"].status == "disagrees"
    assert records["bad"].reason == records["bad"].agreement.rule
    assert records["bad"].agreement.tensors["y"].rel_error == pytest.approx(0.02, rel=1e-3)
    assert_whole(records["bad"])
    assert records["good"].status == "ok"


def switching(kit: Any, right_calls: int, wrong: Any) -> Any:
    """Right for so many calls, wrong ever after."""

    def prepare(layer: Layer) -> Forward:
        count = iter(range(10**9))

        def forward(x: Tensor, routing: Routing) -> Any:
            kit.clock.advance(MS)
            if next(count) < right_calls:
                return kit.experts(layer, x, routing)
            return wrong(x)

        return forward

    return kit.implementation(prepare, "bad")


@pytest.mark.parametrize("wrong", [torch.zeros_like, lambda x: x.clone(), torch.empty_like], ids=["zero", "x", "any"])
def test_right_in_the_gate_and_wrong_whenever_timed_is_always_caught(kit: Any, wrong: Any) -> None:
    for seed in range(5):
        records = kit.bout(
            [switching(kit, 3, wrong), kit.implementation(kit.costing(MS), "good")], kit.case(seed=seed), 0.1 * S
        )
        assert records["bad"].status == "disagrees"
        assert records["bad"].reason.startswith("a timed call, checked after the clock stopped: y: ")
        assert_whole(records["bad"])
        assert records["good"].status == "ok"


def test_wrong_in_the_last_half_of_the_rounds_is_caught_about_half_of_the_times(kit: Any) -> None:
    statuses = []
    for seed in range(40):
        (record,) = kit.bout([switching(kit, 3 + 3 + 40, torch.zeros_like)], kit.case(seed=seed), 0.08 * S).values()
        statuses.append(record.status)
    assert set(statuses) == {"ok", "disagrees"}
    assert 10 <= statuses.count("disagrees") <= 30


def test_who_raises_in_a_late_round_is_dropped_and_the_others_are_measured(kit: Any) -> None:
    def wrong(_x: Tensor) -> Tensor:
        raise ZeroDivisionError("tired")

    start = kit.clock.now
    records = kit.bout(
        [
            kit.implementation(kit.costing(MS), "good"),
            switching(kit, 40, wrong),
            kit.implementation(kit.costing(MS), "c"),
        ],
        budget_ns=0.5 * S,
    )
    assert (records["bad"].status, records["bad"].reason) == ("error", "ZeroDivisionError: tired")
    assert records["bad"].agreement.passed
    for name in ("good", "c"):
        assert records[name].status == "ok"
        assert len(records[name].timing.samples_ns) >= 15
        assert records[name].agreement.checks == 3
    assert [name for name in records if records[name].timing and records[name].timing.control_ns] == ["good"]
    assert kit.clock.now - start < 0.8 * S
    for record in records.values():
        assert_whole(record)


def test_when_the_control_is_dropped_somebody_else_becomes_it(kit: Any) -> None:
    def prepare(layer: Layer) -> Forward:
        forward, count = kit.plain_ffn(layer), iter(range(10**9))

        def tiring(x: Tensor, routing: Routing) -> Any:
            kit.clock.advance(MS)
            return forward(x, routing) if next(count) < 30 else x[:1]

        return tiring

    dense = kit.implementation(prepare, "dense", family="dense")
    records = kit.bout([kit.implementation(kit.costing(MS), "a"), dense], budget_ns=0.5 * S)
    assert records["dense"].status == "error"
    assert "returned shape" in records["dense"].reason
    assert records["a"].timing.control_ns is not None


@pytest.mark.parametrize("costs", [(1, 2), (1, 50), (200, 300)])
def test_the_budget_is_kept_within_reason(kit: Any, costs: tuple[float, ...]) -> None:
    """Once three samples of everybody and the gate fit into it."""
    start = kit.clock.now
    entrants = [kit.implementation(kit.costing(lambda n, c=c: MS * (c + n % 3)), str(c)) for c in costs]
    records = kit.bout(entrants, budget_ns=10 * S)
    assert kit.clock.now - start < 1.3 * 10 * S
    assert {record.status for record in records.values()} == {"ok"}


@pytest.fixture
def timed_for(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The budgets that the timed sections of bouts got, one after the other."""
    run, budgets = TimedSection.run, list[float]()

    def remembered(section: TimedSection, budget_ns: float, meter_calls: int) -> Timed:
        budgets.append(budget_ns)
        return run(section, budget_ns, meter_calls)

    monkeypatch.setattr(TimedSection, "run", remembered)
    return budgets


def test_timing_gets_what_the_gate_leaves_and_a_quarter_at_least(kit: Any, timed_for: list[float]) -> None:
    kit.bout([kit.implementation(kit.costing(MS))], budget_ns=0.1 * S)
    kit.bout([kit.implementation(kit.costing(MS))], budget_ns=3 * MS)
    assert timed_for == [0.1 * S - 3 * MS, 0.25 * 3 * MS]


def test_two_fifths_are_left_to_energy_where_a_counter_can_read_its_window(kit: Any, timed_for: list[float]) -> None:
    board = SimpleNamespace(process_ids=lambda: None)
    for seconds in (10, 1):
        kit.bout([kit.implementation(kit.costing(MS))], around=kit.around(board=board), budget_ns=seconds * S)
    assert timed_for == pytest.approx([0.6 * (10 * S - 3 * MS), S - 3 * MS])


def test_those_who_start_over_have_what_the_one_who_failed_left(kit: Any, timed_for: list[float]) -> None:
    def fails_late(layer: Layer) -> Forward:
        count = iter(range(10**9))

        def forward(x: Tensor, routing: Routing) -> Tensor:
            assert next(count) < 80
            y: Tensor = kit.experts(layer, x, routing)
            return y

        return forward

    start = kit.clock.now
    bad = kit.implementation(kit.costing(MS, fails_late), "bad")
    records = kit.bout([bad, kit.implementation(kit.costing(MS), "good")], budget_ns=0.5 * S)
    assert (records["bad"].status, records["good"].status) == ("error", "ok")
    first, second = timed_for
    assert first == 0.5 * S - 6 * MS
    assert 0.25 * first < second <= first - 77 * MS
    assert kit.clock.now - start < 0.55 * S


def test_a_budget_that_is_far_too_small_still_gives_three_samples(kit: Any) -> None:
    records = kit.bout(
        [kit.implementation(kit.costing(900 * MS), "a"), kit.implementation(kit.costing(MS), "b")], budget_ns=1
    )
    assert all(len(record.timing.samples_ns) >= 3 for record in records.values())
    assert all(record.timing.stopped == "budget" for record in records.values())


def test_what_is_tallied_is_what_was_spent_in_measured_calls(kit: Any) -> None:
    """All calls but the second and third of the gate, which are no measurements."""
    around = kit.around()
    start = kit.clock.now
    kit.bout(
        [kit.implementation(kit.costing(2 * MS), "a"), kit.implementation(kit.costing(3 * MS), "b")], around=around
    )
    assert around.measuring_ns == kit.clock.now - start - 2 * (2 + 3) * MS


def test_asked_for_agreement_only_nobody_is_timed(kit: Any) -> None:
    records = kit.bout([kit.implementation(kit.costing(MS), "a")], around=kit.around(timed=False), budget_ns=0)
    assert records["a"].status == "ok"
    assert (records["a"].timing, records["a"].memory, records["a"].work) == (None, None, None)
    assert records["a"].agreement.checks == 2
    assert not [stage for _, stage in kit.notes if stage.startswith(("round", "warm-up", "memory"))]


def ceilings(scale: float) -> Ceilings:
    return Ceilings(
        copy_bytes_per_second=scale,
        read_bytes_per_second=scale,
        cached_read_bytes_per_second=scale,
        gemm_flops_per_second={"fp32": scale},
        cache_bytes=1,
        launch_ns=1,
    )


def test_faster_than_the_device_can_be_is_impossible(kit: Any) -> None:
    entrants = [kit.implementation(kit.costing(MS), "a")]
    low = kit.bout(entrants, around=kit.around(ceilings=ceilings(1e3)), budget_ns=0.1 * S)["a"]
    assert low.status == "impossible"
    assert low.work.share_of_floor > 1.05
    assert_whole(low)
    high = kit.bout(entrants, around=kit.around(ceilings=ceilings(1e15)), budget_ns=0.1 * S)["a"]
    assert high.status == "ok"
    assert 0 < high.work.share_of_floor < 1


@pytest.mark.parametrize(("second", "status"), [(1e15, "ok"), (1e3, "impossible")])
def test_before_a_ceiling_condemns_it_is_measured_again(kit: Any, second: float, status: str) -> None:
    asked = []

    def measure_again() -> Ceilings:
        asked.append(kit.notes[-1])
        return msgspec.structs.replace(ceilings(second), seconds=2.0)

    around = kit.around(ceilings=ceilings(1e3), measure_again=measure_again)
    entrants = [kit.implementation(kit.costing(MS), "a"), kit.implementation(kit.costing(2 * MS), "b")]
    records = kit.bout(entrants, around=around, budget_ns=0.1 * S)
    assert asked == [(NOBODY, "ceilings")]
    assert {record.status for record in records.values()} == {status}
    assert around.ceilings.read_bytes_per_second == max(second, 1e3)
    assert around.measuring_ns > 2 * S


def test_time_that_no_energy_window_can_use_goes_to_the_rounds(kit: Any) -> None:
    def samples(**given: Any) -> int:
        records = kit.bout([kit.implementation(kit.costing(MS), "a")], around=kit.around(**given), budget_ns=0.1 * S)
        assert records["a"].energy.status == "unavailable"
        return len(records["a"].timing.samples_ns)

    assert samples(board=SimpleNamespace(process_ids=lambda: None)) == samples()


def test_where_ceilings_cannot_be_measured_again_the_first_ones_hold(kit: Any) -> None:
    def measure_again() -> Ceilings:
        raise MemoryError("too little to measure its memory")

    around = kit.around(ceilings=ceilings(1e3), measure_again=measure_again)
    (record,) = kit.bout([kit.implementation(kit.costing(MS))], around=around, budget_ns=0.1 * S).values()
    assert record.status == "impossible"
    assert around.ceilings.read_bytes_per_second == 1e3


def test_nobody_measures_again_what_nobody_beats(kit: Any) -> None:
    around = kit.around(ceilings=ceilings(1e15), measure_again=lambda: pytest.fail("no reason to"))
    (record,) = kit.bout([kit.implementation(kit.costing(MS))], around=around, budget_ns=0.1 * S).values()
    assert record.status == "ok"


def test_the_baseline_is_not_held_against_experts_it_does_not_read(kit: Any) -> None:
    """Two of 32 experts read in the time that two take is no miracle, though the traffic hits all 32."""
    case = kit.case(64, experts=32)
    expert_bytes = case.shape.expert_params * case.dtype_bytes
    entrants = [
        kit.implementation(kit.costing(40 * MS), "a"),
        kit.implementation(kit.costing(6 * MS, kit.plain_ffn), "dense", family="dense"),
    ]
    around = kit.around(ceilings=ceilings(0), cache_bytes=1)
    around.ceilings.read_bytes_per_second = around.ceilings.cached_read_bytes_per_second = expert_bytes / (1 * MS / 1e9)
    around.ceilings.gemm_flops_per_second["fp32"] = 1e15
    records = kit.bout(entrants, case, 2 * S, around)
    assert records["a"].work.distinct_experts > 30
    assert records["dense"].work.distinct_experts == 2
    assert records["dense"].status == "ok"


def test_whoever_might_die_was_announced_and_the_harness_answers_for_itself(kit: Any) -> None:
    kit.bout([kit.implementation(kit.costing(MS), "a")], budget_ns=0.1 * S)
    stages = [note for note in kit.notes if not note[1].startswith("round")]
    assert stages == [
        (NOBODY, "inputs"),
        ("a", "asking"),
        (NOBODY, "oracle"),
        ("a", "gate"),
        ("a", "prepare"),
        ("a", "first call"),
        ("a", "poisoned call"),
        ("a", "repeated call"),
        ("a", "asking"),
        ("a", "warm-up"),
        (NOBODY, "oracle"),
        ("a", "late check"),
        ("a", "memory"),
        ("a", "energy"),
    ]


def test_nor_is_one_that_cannot_be_computed_for_the_late_check(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.measure.answers import Answers

    standard = Answers.standard

    def late(self: Answers, draw: int, **given: Any) -> Any:
        if ("a", "warm-up") in kit.notes:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return standard(self, draw, **given)

    monkeypatch.setattr(Answers, "standard", late)
    (record,) = kit.bout([kit.implementation(kit.costing(MS), "a")], budget_ns=0.1 * S).values()
    assert record.status == "oom"
    assert record.timing is None
    assert record.reason.startswith("computing the float64 oracle failed: OutOfMemoryError: CUDA out of memory")


def test_an_oracle_that_cannot_be_computed_is_nobodys_fault(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def solve(*_arguments: Any, **_given: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("harness.measure.answers.solve", solve)
    (record,) = kit.bout([kit.implementation()]).values()
    assert record.status == "oom"
    assert record.reason.startswith("computing the float64 oracle failed: OutOfMemoryError: CUDA out of memory; lower")


def fails_when_called(_layer: Layer) -> Forward:
    def forward(_x: Tensor, _routing: Routing) -> Tensor:
        raise RuntimeError("not today")

    return forward


def test_torch_gives_back_what_nobody_holds_before_each_contestant_and_after_a_failure(
    kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("harness.measure.bout.free_unused", lambda device: asked.append((device, kit.notes[-1:])))
    kit.bout([kit.implementation(kit.costing(MS), "a"), kit.implementation(fails_when_called, "b")], budget_ns=0.1 * S)
    assert {device for device, _ in asked} == {"cpu"}
    assert [note for _, note in asked] == [[(NOBODY, "inputs")], [("a", "repeated call")], [("b", "first call")]]


def test_an_allocator_beyond_use_ends_the_worker(
    kit: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a failed graph capture leaves it: every later figure would be wrong."""

    def broken(device: str) -> None:
        if kit.notes[-1] == ("a", "first call"):
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")

    monkeypatch.setattr("harness.measure.bout.free_unused", broken)
    with pytest.raises(RuntimeError, match="captures_underway"):
        kit.bout(
            [kit.implementation(fails_when_called, "a"), kit.implementation(kit.costing(MS), "b")], budget_ns=0.1 * S
        )
    assert "RuntimeError: not today" in capsys.readouterr().err


def test_a_device_that_was_lost_ends_the_worker(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every later call would fail too; the parent charges who was announced last and starts another worker."""

    def lost() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def breaking(_layer: Layer) -> Forward:
        monkeypatch.setattr(kit.clock, "synchronise", lost)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        kit.bout([kit.implementation(breaking, "bad"), kit.implementation(name="good")])
    assert kit.notes[-1] == ("bad", "prepare")


def test_weights_changed_while_timed_condemn_everybody_who_was(kit: Any) -> None:
    """Nobody can tell whose call it was, and every answer after it is to another layer's question."""

    def prepare(layer: Layer) -> Forward:
        count = iter(range(10**9))

        def forward(x: Tensor, routing: Routing) -> Any:
            kit.clock.advance(MS)
            if next(count) == 30:
                layer.down.mul_(1.5)
            return kit.experts(layer, x, routing)

        return forward

    case, weights = kit.case(), make_weights(kit.case())
    right = weights.layer.down.clone()
    entrants = [kit.implementation(prepare, "bad"), kit.implementation(kit.costing(MS), "good")]
    records = Bout(case, weights, kit.around()).run(entrants, 0.3 * S)
    assert {record.status for record in records} == {"error"}
    assert records[0].reason.startswith("the layer's weights (down) changed while bad, good were timed; find out")
    assert torch.equal(weights.layer.down, right)


def sets(kit: Any, change: Callable[[], object], at: int) -> Callable[[Layer], Forward]:
    """Right answers, and a setting of the whole process that is another from call ``at`` on."""

    def prepare(layer: Layer) -> Forward:
        count = iter(range(10**9))

        def forward(x: Tensor, routing: Routing) -> Any:
            kit.clock.advance(MS)
            if next(count) == at:
                change()
            return kit.experts(layer, x, routing)

        return forward

    return prepare


SETTERS = {
    "torch.set_num_threads from 1 to 2": lambda: torch.set_num_threads(2),
    "torch.autograd.set_detect_anomaly from False to True": lambda: torch.set_anomaly_enabled(True),
    "torch.set_default_dtype from torch.float32 to torch.float64": lambda: torch.set_default_dtype(torch.float64),
    "torch.set_float32_matmul_precision from highest to medium": lambda: torch.set_float32_matmul_precision("medium"),
    "torch.use_deterministic_algorithms from False to True": lambda: torch.use_deterministic_algorithms(True),
    "torch.backends.mkldnn.enabled from True to False": lambda: setattr(torch.backends.mkldnn, "enabled", False),
    "torch.backends.cuda.matmul.allow_fp16_accumulation from False to True": lambda: setattr(
        torch.backends.cuda.matmul, "allow_fp16_accumulation", True
    ),
    "gc.enable from True to False": gc.disable,
}


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("said", SETTERS)
def test_who_changes_what_is_everybodys_is_found_out_by_the_gate(kit: Any, said: str) -> None:
    before = read_settings()
    bad = kit.implementation(sets(kit, SETTERS[said], 0), "bad")
    records = kit.bout([bad, kit.implementation(kit.costing(MS), "good")], budget_ns=0.1 * S)
    assert records["bad"].status == "error"
    assert records["bad"].reason == f"changed {said} for the whole process; it must be put back before a call returns"
    assert records["good"].status == "ok"
    assert read_settings() == before


@pytest.mark.usefixtures("one_thread")
def test_what_is_everybodys_changed_while_timed_condemns_everybody_who_was(kit: Any) -> None:
    before = read_settings()
    bad = kit.implementation(sets(kit, SETTERS["torch.set_num_threads from 1 to 2"], 30), "bad")
    records = kit.bout([bad, kit.implementation(kit.costing(MS), "good")], budget_ns=0.3 * S)
    assert {record.status for record in records.values()} == {"error"}
    assert records["good"].reason.startswith("torch.set_num_threads from 1 to 2 changed while bad, good were timed;")
    assert read_settings() == before


def test_autocast_left_on_is_found_out_and_nobody_else_is_cast(kit: Any) -> None:
    before = read_settings()
    bad = kit.implementation(sets(kit, lambda: torch.set_autocast_enabled("cpu", True), 2), "bad")
    records = kit.bout([bad, kit.implementation(kit.costing(MS), "good")], budget_ns=0.1 * S)
    assert records["bad"].status == "error"
    assert records["bad"].reason.startswith("changed torch.set_autocast_enabled from ")
    assert records["good"].status == "ok"
    assert read_settings() == before


@pytest.mark.usefixtures("one_thread")
def test_what_is_changed_when_asked_is_put_back(kit: Any) -> None:
    """A package that is imported then sets what suits it; nobody is blamed."""
    before = read_settings()
    asked = kit.implementation(kit.costing(MS), "asked", unsupported_by=lambda _case: torch.set_num_threads(2))
    records = kit.bout([asked, kit.implementation(kit.costing(MS), "good")], budget_ns=0.1 * S)
    assert {record.status for record in records.values()} == {"ok"}
    assert read_settings() == before


def test_a_meter_that_fails_does_not_cost_the_time(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: Any, **_given: Any) -> None:
        raise RuntimeError("no profiler here")

    monkeypatch.setattr("harness.measure.metering.measure_memory", broken)
    monkeypatch.setattr("harness.measure.metering.measure_energy", broken)
    (record,) = kit.bout([kit.implementation(kit.costing(MS))], budget_ns=0.1 * S).values()
    assert record.status == "ok"
    assert_whole(record)
    for meter in (record.memory, record.energy):
        assert (meter.status, meter.reason) == ("unavailable", "RuntimeError: no profiler here")


def test_a_reason_that_is_no_text_becomes_one(kit: Any) -> None:
    """The contract asks for a string; the parent's strict decoder would throw the whole bout away."""
    (record,) = kit.bout([kit.implementation(unsupported_by=lambda _case: 404)]).values()
    assert (record.status, record.reason) == ("unsupported", "404")
    assert_whole(record)


def test_nobody_at_all_is_no_records(kit: Any) -> None:
    assert kit.bout([]) == {}


def test_garbage_collection_is_as_it_was(kit: Any) -> None:
    before = gc.get_freeze_count()
    kit.bout([kit.implementation(kit.costing(MS))], budget_ns=0.1 * S)
    assert gc.get_freeze_count() == before
    assert gc.isenabled()


def test_implementations_are_described_as_registered(kit: Any) -> None:
    info = describe(kit.implementation(name="a", version="3"))
    assert (info.name, info.version, info.family, info.origin, info.summary) == ("a", "3", "loop", "tests", "by hand")


@pytest.mark.cuda
@pytest.mark.parametrize("scope", ["experts", "layer"])
@pytest.mark.parametrize("execution", ["eager", "graph"])
def test_on_a_gpu(kit: Any, execution: str, scope: str) -> None:
    case = kit.case(64, device="cuda", dtype="bf16", execution=execution, scope=scope)
    entrants = [kit.implementation(kit.never_asking, "a"), kit.implementation(kit.correct, "asking")]
    records = kit.bout(entrants, case, S, kit.around(clock=clock_for("cuda:0"), cache_bytes=1 << 20))
    for record in records.values():
        assert_whole(record)
    timing = records["a"].timing
    assert timing.clock == ("cuda_graph" if execution == "graph" else "wall")
    assert all(0 < device <= wall for device, wall in zip(timing.device_ns, timing.samples_ns, strict=True))
    if execution == "graph":
        assert records["asking"].status == "unsupported"
        assert "cannot be captured in a CUDA graph" in records["asking"].reason
        assert records["a"].memory.workspace_bytes > 0
    else:
        assert records["asking"].status == "ok"
