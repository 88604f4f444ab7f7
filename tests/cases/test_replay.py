"""``trace:FILE?…``: what may be asked, which rows that means, and what makes two such cases the same case."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cases import replay, shipped
from harness.cases.axes import make_case
from harness.cases.case import Case
from harness.cases.replay import Replay, ReplayError, parse_replay, replayed, resolve_replay
from harness.cases.shape import Shape
from harness.cases.suite import load_suite
from harness.cases.traffic import Traffic
from harness.export.series import case_name
from harness.traces.format import Trace, TraceInfo
from harness.traces.writing import make_trace, write_trace

ROOT = Path(__file__).parents[2]
SIZES: dict[str, Any] = {"hidden": 16, "expert_hidden": 8, "experts": 8, "top_k": 2}
PROMPTS, DECODED = (5, 3), 4


def make(layers: tuple[int, ...] = (0, 3), seed: int = 0, experts: int = 8) -> Trace:
    rng = np.random.default_rng(seed)
    rows = [
        (layer, request, position, int(position >= length))
        for layer in layers
        for request, length in enumerate(PROMPTS)
        for position in range(length + DECODED)
    ]
    layer, request, position, phase = zip(*rows, strict=True)
    info = TraceInfo(model="m", experts=experts, top_k=2)
    ids = rng.random((len(rows), experts)).argsort(axis=1)[:, :2]
    weights = rng.random((len(rows), 2))
    return make_trace(info, ids=ids, weights=weights, layer=layer, request=request, position=position, phase=phase)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "mine.npz"
    write_trace(make(), path)
    return path


def case_of(spread: str, **changes: Any) -> Case:
    return make_case({**SIZES, "tokens": 4, "traffic": spread, **changes}, "cpu")


def optional(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), strategy)


@given(
    st.builds(
        Replay,
        file=st.text("abc/.-_ ü", min_size=1),
        layer=optional(st.integers(0, 99)),
        phase=optional(st.sampled_from(["prefill", "decode"])),
        request=optional(st.integers(0, 99)),
        start=optional(st.integers(0, 99)),
        window=optional(st.integers(1, 99)),
    ),
    st.booleans(),
)
def test_what_is_written_is_read(asked: Replay, resolved: bool) -> None:
    if resolved:
        asked = Replay(**{**asked.__dict__, "rows": 7, "digest": "0123456789abcdef"})
    assert parse_replay(str(asked)) == asked
    if resolved:
        assert Traffic(tokens=1, spread=str(asked)).spread == str(asked)


@pytest.mark.parametrize(
    ("spread", "words"),
    [
        ("trace", "the name of a shipped trace"),
        ("trace:", "the name of a shipped trace"),
        ("trace:?layer=1", "the name of a shipped trace"),
        ("trace:a?layr=1", "no option 'layr', did you mean 'layer'"),
        ("trace:a?foo=7", "one of layer, phase, request, start, window$"),
        ("trace:a?layer", "layer a whole number of at least 0"),
        ("trace:a?layer=-1", "layer a whole number"),
        ("trace:a?layer=1.5", "layer a whole number"),
        ("trace:a?layer=99999999999999", "layer a whole number"),
        ("trace:a?window=0", "window a whole number of at least 1"),
        ("trace:a?layer=1&layer=2", "layer once"),
        ("trace:a?phase=training", "phase one of prefill, decode"),
        ("trace:a?", None),
        ("trace:a?rows=3", "rows and a digest together"),
        ("trace:a#0123456789abcdef", "rows and a digest together"),
        ("trace:a?rows=3#xyz", "16 hex digits"),
        ("trace:a?__class__=1", "no option"),
    ],
)
def test_what_may_be_asked(spread: str, words: str | None) -> None:
    if words is None:
        assert parse_replay(spread) == Replay("a")
        return
    with pytest.raises(ValueError, match=words) as caught:
        Traffic(tokens=1, spread=spread)
    assert str(caught.value).startswith("traffic = 'trace")


def test_traffic_knows_which_trace_it_is_before_it_is_made() -> None:
    with pytest.raises(ValueError, match="a trace that was looked up"):
        Traffic(tokens=1, spread="trace:a?layer=1")


def test_a_specification_is_written_out(path: Path) -> None:
    digest = make().digest
    assert resolve_replay(f"trace:{path}?phase=decode&layer=3") == f"trace:{path}?layer=3&phase=decode&rows=8#{digest}"
    resolved = resolve_replay(f"trace:{path}?layer=0&request=1&start=1&window=3")
    assert resolved == f"trace:{path}?layer=0&request=1&start=1&window=3&rows=3#{digest}"
    assert resolve_replay(resolved) == resolved


def test_what_goes_without_saying_is_said(tmp_path: Path) -> None:
    """The only layer and the only phase: left out or named, it is one case."""
    write_trace(make((5,)).select(phase="decode"), tmp_path / "a.npz")
    spreads = {
        resolve_replay(f"trace:{tmp_path}/a.npz{words}")
        for words in ("", "?layer=5", "?phase=decode", "?phase=decode&layer=5")
    }
    assert len(spreads) == 1
    assert "?layer=5&phase=decode&rows=8#" in spreads.pop()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("", "layer= one of 0, 3"),
        ("?layer=1", "layer= one of 0, 3"),
        ("?layer=0&request=9", "a choice that leaves rows"),
        ("?layer=0&start=99", "a choice that leaves rows"),
        ("?layer=0&rows=16#0123456789abcdef", "has changed: its digest is"),
    ],
)
def test_what_the_trace_does_not_hold(path: Path, words: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        resolve_replay(f"trace:{path}{words}")


def test_rows_are_counted_not_believed(path: Path) -> None:
    with pytest.raises(ValueError, match="rows=16"):
        resolve_replay(f"trace:{path}?layer=0&rows=15#{make().digest}")


def test_decoding_takes_a_token_of_each_request_a_step(path: Path) -> None:
    rows = replayed(resolve_replay(f"trace:{path}?layer=3&phase=decode"))
    assert rows.request.tolist() == [0, 1] * DECODED
    assert rows.position.tolist() == [5, 3, 6, 4, 7, 5, 8, 6]
    prefill = replayed(resolve_replay(f"trace:{path}?layer=3&phase=prefill&start=4&window=2"))
    assert list(zip(prefill.request, prefill.position, strict=True)) == [(0, 4), (1, 0)]
    both = replayed(resolve_replay(f"trace:{path}?layer=0&request=1"))
    assert both.position.tolist() == list(range(7))
    assert set(both.layer.tolist()) == {0}


def test_where_a_trace_is_looked_for(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shipped by name, beside the suite, in the working directory; in this order."""
    here, suites = tmp_path / "here", tmp_path / "suites"
    for place in (here, suites / "traces"):
        place.mkdir(parents=True)
    monkeypatch.chdir(here)
    with pytest.raises(ValueError, match=r"trace:mine\.npz': no such file"):
        resolve_replay("trace:mine.npz?layer=0")
    shutil.copy(path, here / "mine.npz")
    assert resolve_replay("trace:mine.npz?layer=0").startswith(f"trace:{here}/mine.npz?")
    assert resolve_replay("trace:mine.npz?layer=0", tmp_path).startswith(f"trace:{path}?")
    monkeypatch.setattr(shipped, "SUITES", suites)
    shutil.copy(path, suites / "traces" / "small.npz")
    resolved = resolve_replay("trace:small?layer=0")
    assert resolved.startswith("trace:small?layer=0&rows=")
    assert len(replayed(resolved)) == 16
    with pytest.raises(ValueError, match="no such file; shipped: small"):
        resolve_replay("trace:smal?layer=0")


def test_a_case_is_what_a_trace_holds_wherever_it_lies(path: Path, tmp_path: Path) -> None:
    other, changed = tmp_path / "other" / "name.npz", tmp_path / "changed.npz"
    other.parent.mkdir()
    shutil.copy(path, other)
    write_trace(make(seed=1), changed)
    case, same, different = (case_of(f"trace:{file}?layer=3") for file in (path, other, changed))
    assert case.case_id == same.case_id != different.case_id
    assert case.case_id != case_of(f"trace:{path}?layer=0").case_id
    assert case_name(msgspec.to_builtins(case)) == case_name(msgspec.to_builtins(same))
    assert case_name(msgspec.to_builtins(case)) != case_name(msgspec.to_builtins(different))
    assert case.traffic.label.startswith("trace:mine?layer=3#")
    assert str(tmp_path) not in case.label()
    assert len(case.traffic.label.rpartition("#")[2]) == 4


def test_a_case_with_a_trace_needs_no_file_to_be_read(path: Path) -> None:
    case = case_of(f"trace:{path}?layer=3")
    path.unlink()
    again = msgspec.json.decode(msgspec.json.encode(case), type=Case)
    assert again == case
    assert again.case_id == case.case_id


def test_cases_without_traces_are_the_cases_they_were() -> None:
    records = [
        json.loads(line)
        for run in ROOT.glob("results/reference/*/records.jsonl")
        for line in run.read_text().splitlines()
    ]
    assert len(records) > 50
    for record in records:
        assert msgspec.convert(record["case"], Case).case_id == record["case_id"]


def test_more_tokens_than_rows_are_announced(path: Path) -> None:
    assert "(16 rows, repeated)" in case_of(f"trace:{path}?layer=3", tokens=17).label()
    assert "repeated" not in case_of(f"trace:{path}?layer=3", tokens=16).label()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"experts": 16}, "the trace has experts = 8, top_k = 2, the shape experts = 16, top_k = 2"),
        ({"top_k": 1}, "the trace has experts = 8, top_k = 2, the shape experts = 8, top_k = 1"),
        ({"router": "expert_choice"}, "a router in which tokens choose, not 'expert_choice'"),
        ({"router": "mixture"}, "not 'mixture'"),
        ({"scope": "layer", "hidden": 4}, "hidden of at least experts = 8"),
        ({"scope": "layer", "groups": 4, "top_groups": 1}, "the router keeps 1 groups of experts, the trace takes 2"),
    ],
)
def test_layers_that_cannot_route_so(path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        case_of(f"trace:{path}?layer=3", **changes)
    assert "\n" not in str(caught.value)
    if "scope" in changes:
        case_of(f"trace:{path}?layer=3", **changes | {"scope": "experts"})


def test_suites_name_traces_beside_them(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    suite = tmp_path / "suite.toml"
    traffic = '["uniform", "trace:mine.npz?layer=3&phase=decode", "trace:./mine.npz?phase=decode&layer=3"]'
    sizes = "\n".join(f"{key} = {value}" for key, value in SIZES.items())
    suite.write_text(f'[suite]\nname = "s"\n[[sweep]]\n{sizes}\ntokens = [4, 8]\ntraffic = {traffic}\n')
    cases = [planned.case for planned in load_suite(suite).cases("cpu")]
    assert len(cases) == 4
    assert {case.traffic.kind for case in cases} == {"uniform", "trace"}
    path.write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match=rf"^{suite}: sweep 1: {path}: no trace: not a zip file \(an \.npz\)"):
        load_suite(suite)


def test_a_trace_that_changed_since_is_refused(path: Path) -> None:
    resolved = resolve_replay(f"trace:{path}?layer=3")
    for content in (None, b"PK", "gone"):
        replay.replayed.cache_clear()
        if content is None:
            write_trace(make(seed=5), path)
        elif content == "gone":
            path.unlink()
        else:
            path.write_bytes(b"PK")
        with pytest.raises(ReplayError, match=r"has changed: its digest|no trace|no such file"):
            replayed(resolved)


def test_the_shape_of_a_trace_is_found_by_the_layer(path: Path) -> None:
    shape = Shape(**SIZES)
    replay.check_replay(resolve_replay(f"trace:{path}?layer=3"), shape, "layer")
