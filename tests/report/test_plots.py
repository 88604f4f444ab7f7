"""Pictures: what is on the axes, and what is said when there is nothing to draw."""

from __future__ import annotations

import io
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from harness.cases.shape import Shape
from harness.cases.traffic import TRAFFIC_KINDS
from harness.records.record import Memory, Work
from harness.report import style, units
from harness.report.plots import PLOTS, balance, memory, skew, sweep, throughput, winners
from harness.report.plots.ends import apart
from harness.report.sweeps import sweeps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes

    from harness.report.groups import Group
    from tests.report.conftest import Factory


@pytest.fixture(autouse=True)
def styled() -> Iterator[None]:
    with style.in_style():
        yield


@pytest.fixture(scope="module")
def group(make: Factory) -> Group:
    cases = [make.case(tokens, spread) for tokens in (8, 512, 4096) for spread in ("uniform", "gaussian", "zipf")]
    (found,) = make.groups(make.machine(cases))
    return found


WORK = Work(distinct_experts=1, useful_flops=1, min_bytes=1)


def axes_of(drawn: Figure | str) -> list[Axes]:
    assert isinstance(drawn, Figure), drawn
    return drawn.axes


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_throughput_has_a_line_each_and_the_floor(group: Group) -> None:
    (axes,) = axes_of(throughput.draw(group))
    assert [line.get_label() for line in axes.lines] == [*group.impls, "floor"]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert axes.get_xlabel() == "tokens in one call"
    assert axes.get_ylabel() == "tokens per second"
    assert "faster than the hardware can do this layer" in texts(axes)
    assert "einsum, then oom" in texts(axes)
    assert "dense (baseline)" in texts(axes)


def test_no_implementation_is_drawn_above_the_floor(group: Group) -> None:
    (axes,) = axes_of(throughput.draw(group))
    *lines, floor = axes.lines
    limits = dict(np.asarray(floor.get_xydata()).tolist())
    for line in lines:
        if line.get_label() != "dense":
            assert all(y <= limits[x] for x, y in np.asarray(line.get_xydata()).tolist())


def test_throughput_without_ceilings_says_so(make: Factory) -> None:
    records = [make.timed(make.case(tokens), "loop") for tokens in (1, 2)]
    for record in records:
        record.work = make.modelled(record.case, "loop", make.environment()).work
        assert record.work is not None
        record.work.floor_ns = None
    (found,) = make.groups(make.run(records))
    (axes,) = axes_of(throughput.draw(found))
    assert len(axes.lines) == 1
    assert axes.get_title(loc="left").endswith("no ceilings were measured, so no floor")


def test_winners_show_name_and_margin_in_every_cell(group: Group) -> None:
    (axes,) = axes_of(winners.draw(group))
    assert len(axes.patches) == 9
    assert [tick.get_text() for tick in axes.get_xticklabels()] == group.spreads
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["8", "512", "4096"]
    said = texts(axes)
    assert len(said) == 18
    outcome = group.outcomes[0]
    assert outcome.standing.winner == said[0]
    assert said[1].endswith("x")
    assert to_hex(axes.patches[0].get_facecolor()) == group.looks[said[0]].colour


def test_ties_are_grey_and_empty_cases_white(make: Factory) -> None:
    one, two = make.case(1), make.case(2)
    records = [make.timed(one, "loop"), make.timed(one, "batched"), make.failed(two, "loop", "oom")]
    (found,) = make.groups(make.run(records))
    (axes,) = axes_of(winners.draw(found))
    assert [to_hex(patch.get_facecolor()) for patch in axes.patches] == [style.TIE.lower(), "#ffffff"]
    assert texts(axes) == ["batched", "≈ loop", "nothing ranked", "oom"]


def test_skew_is_relative_to_uniform(group: Group) -> None:
    panels = axes_of(skew.draw(group))
    assert [axes.get_title(loc="left").split(";")[0] for axes in panels] == ["T = 8", "T = 512", "T = 4096"]
    rows = skew.relative(group.speeds)
    even = rows[rows["spread"] == "uniform"]
    assert even["ratio"].tolist() == [1.0] * len(even)
    assert even["low"].tolist() == even["high"].tolist() == [1.0] * len(even), "nothing is uncertain against itself"
    assert (rows["low"] <= rows["ratio"]).all()
    assert (rows["ratio"] <= rows["high"]).all()
    assert panels[0].get_xticklabels()[0].get_text().startswith("uniform\n")
    assert len(panels[0].containers) == 8


def test_panels_of_skew_have_one_kind_of_axis_and_the_order_of_the_table(make: Factory) -> None:
    """Five times as slow at T = 64 alone, on one machine alone; and a bar that reaches far beyond."""
    runs = []
    for host, worst in (("one", 5e6), ("two", 1.2e6)):
        records = []
        for tokens, skewed in ((8, 1.2e6), (64, worst)):
            spreads = {"uniform": (1e6, 0.01), "zipf": (1e6, 0.01), "gaussian": (skewed, 0.8)}
            for spread, (ns, wide) in spreads.items():
                case, load = make.case(tokens, spread), make.balance(make.case(tokens, spread))
                load.max_over_mean = 9.0 if (tokens, spread) == (8, "gaussian") else load.max_over_mean
                names = ("loop", "batched")
                records += [make.timed(case, impl, ns, spread=wide, balance=load) for impl in names]
        runs.append(make.run(records, environment=make.environment(host)))
    (found,) = make.groups(*runs)
    panels = axes_of(skew.draw(found))
    assert [axes.get_yscale() for axes in panels] == ["log"] * 4
    assert all(axes.get_ylabel() == "time over uniform (log)" for axes in panels)
    limits = {axes.get_title(loc="left"): axes.get_ylim() for axes in panels}
    assert len(set(limits.values())) == 2, "those of one token count share their axis"
    assert max(high for _, high in limits.values()) < 6, "bars up to 15x are cut"
    for axes in panels:
        assert [tick.get_text().split("\n")[0] for tick in axes.get_xticklabels()] == found.spreads


def test_memory_stacks_parts_that_do_not_overlap(make: Factory) -> None:
    run = make.machine([make.case(64, pass_="training")])
    (found,) = make.groups(run)
    (axes,) = axes_of(memory.draw(found))
    assert axes.get_yticklabels()[0].get_text() == "dense (baseline)"
    assert "unsupported" in texts(axes)
    record = next(record for record in run.records if record.impl.name == "batched")
    assert record.memory is not None
    assert record.memory.workspace_bytes is not None
    assert record.memory.prepared_bytes is not None
    place = list(reversed(found.impls)).index("batched")
    widths = [patch.get_width() for patch in axes.patches if abs(patch.get_y() + 0.33 - place) < 0.01]  # type: ignore[attr-defined]
    beside = record.memory.beside_weights_bytes
    assert beside
    assert sum(widths) * 2**30 == pytest.approx(record.memory.weights_bytes + beside)
    assert len(widths) == 5
    assert f"+ {units.size(beside)}" in texts(axes), "the figure that `compare` and the table show"


@pytest.mark.parametrize(("pass_", "names"), [("forward", ["workspace"]), ("training", ["workspace, the rest"])])
def test_memory_says_when_a_part_of_the_workspace_is_drawn_apart(
    make: Factory, pass_: Literal["forward", "training"], names: list[str]
) -> None:
    (found,) = make.groups(make.machine([make.case(64, pass_=pass_)]))
    drawn = memory.draw(found)
    assert isinstance(drawn, Figure)
    words = [text.get_text() for text in drawn.legends[0].get_texts()]
    saved = ["workspace, saved for backward"] * (pass_ == "training")
    assert words == ["weights", "copies of weights", *saved, *names, "output"]


def test_memory_shows_who_is_left_out_of_large_calls(make: Factory) -> None:
    """What copies weights for every slot is asked for few tokens only; there stands what it takes."""
    memory_of = Memory(status="ok", weights_bytes=100, workspace_bytes=10)
    records = [make.timed(make.case(n), "loop", memory=memory_of) for n in (1, 4, 64)]
    records += [make.timed(make.case(n), "hungry", memory=memory_of) for n in (1, 4)]
    (found,) = make.groups(make.run(records))
    few, many = axes_of(memory.draw(found))
    assert few.get_title(loc="left").startswith("T = 4; ")
    assert [label.get_text() for label in few.get_yticklabels()] == ["hungry", "loop"]
    assert many.get_title(loc="left").startswith("T = 64; ")


def test_panels_of_memory_share_their_unit_and_axis(make: Factory) -> None:
    few = Memory(status="ok", weights_bytes=2**29, workspace_bytes=2**30, peak_bytes=2**30)
    many = Memory(status="ok", weights_bytes=2**29, workspace_bytes=2**20, peak_bytes=2**20)
    records = [make.timed(make.case(n), "loop", memory=many) for n in (4, 64)]
    records += [make.timed(make.case(4), "hungry", memory=few)]
    (found,) = make.groups(make.run(records))
    panels = axes_of(memory.draw(found))
    assert [axes.get_xlabel() for axes in panels] == ["GiB on the device"] * 2
    assert panels[0].get_xlim() == panels[1].get_xlim()


@pytest.mark.parametrize(
    ("labels", "lines"),
    [
        (["uniform", "zipf:1"], ["uniform", "zipf:1"]),
        (["uniform", "trace:a?layer=1&phase=decode#12ab"], ["uniform", "trace:a\nlayer=1\nphase=decode"]),
        (["trace:a#12ab", "trace:a#34cd"], ["trace:a#12ab", "trace:a#34cd"]),
    ],
)
def test_traffic_is_broken_into_lines_that_stay_apart(labels: list[str], lines: list[str]) -> None:
    assert style.stacked(labels) == lines


def test_balance_is_sorted_and_tells_chance_from_skew(group: Group) -> None:
    (axes,) = axes_of(balance.draw(group))
    lines = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    assert [str(line.get_label()).split(": ")[0] for line in lines] == group.spreads
    for line in lines:
        assert (np.diff(np.asarray(line.get_ydata())) <= 0).all()
    assert len(axes.figure.legends) == 1, "below the axes, which keep their width"


@pytest.mark.parametrize(
    ("counts", "ticks"),
    [([52, 64, 64, 128, 0], {"1x", "1.5x"}), ([4, 64, 64, 128, 0], {"1/8x", "1/2x", "1x"}), ([64] * 4, {"1x"})],
)
def test_the_axis_of_balance_begins_at_the_smallest_load(make: Factory, counts: list[int], ticks: set[str]) -> None:
    case = make.case(64)
    load = make.balance(case)
    load.histogram = counts
    (found,) = make.groups(make.run([make.timed(case, "loop", balance=load)]))
    drawn = balance.draw(found)
    (axes,) = axes_of(drawn)
    assert isinstance(drawn, Figure)
    drawn.draw_without_rendering()
    bottom, top = axes.get_ylim()
    smallest = min(count for count in counts if count) / np.mean(counts)
    assert 0.75 * smallest < bottom <= smallest
    assert ticks <= {tick.get_text() for tick in axes.get_yticklabels() if bottom <= tick.get_position()[1] <= top}


def test_a_traffic_has_one_colour_whatever_stands_beside_it() -> None:
    alone = style.traffic_looks(["gaussian:0.15"])["gaussian:0.15"]
    many = style.traffic_looks(["uniform", "gaussian:0.05", "gaussian:0.15", "zipf:1", "trace:a?layer=1"])
    assert many["gaussian:0.15"] == alone
    assert len(set(many.values())) == 5
    assert set(style.TRAFFIC_COLOURS) == set(TRAFFIC_KINDS)


@pytest.mark.parametrize(("value", "said"), [(4, "4x"), (1, "1x"), (1 / 32, "1/32x"), (0.5, "1/2x"), (0.8, "0.8x")])
def test_ticks_of_ratios(value: float, said: str) -> None:
    assert style.times(value) == said


def test_a_sweep_maps_experts_and_top_k(make: Factory) -> None:
    shapes = [Shape(hidden=64, expert_hidden=32, experts=e, top_k=k) for e in (8, 16) for k in (1, 2)]
    found = make.groups(make.machine([make.case(tokens, shape=shape) for shape in shapes for tokens in (8, 64)]))
    (only,) = sweeps(found)
    panels = axes_of(sweep.draw(only, only.runs[0]))
    assert len(panels) == 2
    assert [axes.get_xlabel() for axes in panels] == ["experts", "experts"]
    assert panels[0].get_ylabel() == "top-k"
    assert [len(axes.patches) for axes in panels] == [4, 4]


def test_a_sweep_of_experts_alone_puts_tokens_up(make: Factory) -> None:
    shapes = [Shape(hidden=64, expert_hidden=32, experts=e, top_k=2) for e in (8, 16, 32)]
    found = make.groups(make.machine([make.case(tokens, shape=shape) for shape in shapes for tokens in (8, 64)]))
    (only,) = sweeps(found)
    (axes,) = axes_of(sweep.draw(only, only.runs[0]))
    assert axes.get_ylabel() == "tokens in one call"
    assert len(axes.patches) == 6


def test_several_machines_get_a_panel_each(make: Factory) -> None:
    cases = [make.case(tokens, spread) for tokens in (8, 512) for spread in ("uniform", "gaussian")]
    there = make.machine(cases, make.environment("other", "NVIDIA A100", 0.5))
    (found,) = make.groups(make.machine(cases), there)
    for draw in (winners.draw, throughput.draw, memory.draw):
        titles = [axes.get_title(loc="left") for axes in axes_of(draw(found))]
        assert [title.removeprefix("T = 512; ") for title in titles] == [
            "gpu-07, NVIDIA H100 80GB HBM3",
            "other, NVIDIA A100",
        ]


def test_one_bare_case_draws_nothing_and_says_why(make: Factory) -> None:
    (found,) = make.groups(make.run([make.timed(make.case(64), "loop")]))
    for plot in PLOTS:
        said = plot.draw(found)
        assert isinstance(said, str)
        assert "not drawn" in said


def test_no_tokens_draw_nothing(make: Factory) -> None:
    (found,) = make.groups(make.machine([make.case(0), make.case(1)]))
    assert isinstance(throughput.draw(found), str)


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.name)
def test_every_picture_can_be_saved(group: Group, plot: object) -> None:
    drawn = plot.draw(group)  # type: ignore[attr-defined]
    assert isinstance(drawn, Figure)
    file = io.BytesIO()
    drawn.savefig(file)
    assert file.getvalue().startswith(b"\x89PNG")
    assert len(file.getvalue()) > 10_000


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12).map(sorted), st.floats(0.01, 0.2))
def test_names_keep_their_distance_order_and_place(wanted: list[float], step: float) -> None:
    placed = apart(wanted, step)
    assert len(placed) == len(wanted)
    assert all(above - below >= step * 0.999 for below, above in pairwise(placed))
    assert placed[0] >= -1e-9
    if step * (len(wanted) - 1) <= 1:
        assert placed[-1] <= 1 + 1e-9


@given(st.lists(st.integers(0, 20), max_size=8, unique=True).map(sorted))
def test_names_with_room_stay_where_they_are(wanted: list[int]) -> None:
    assert apart([float(place) for place in wanted], 1.0, 0.0, 20.0) == [float(place) for place in wanted]


def test_a_name_at_the_end_of_its_line_needs_no_room(make: Factory) -> None:
    records = [make.timed(make.case(t), "loop", 1e6 * t, work=WORK) for t in (16, 64)]
    (found,) = make.groups(make.run(records))
    for drawn in (throughput.draw(found), winners.draw(found)):
        assert isinstance(drawn, Figure)
        drawn.savefig(io.BytesIO())


def test_times_without_work_have_no_throughput(make: Factory) -> None:
    (found,) = make.groups(make.run([make.timed(make.case(t), "loop") for t in (16, 64)]))
    assert isinstance(throughput.draw(found), str)


def test_ink_reads_on_every_colour() -> None:
    assert style.ink_on("#000000") == "#FFFFFF"
    assert style.ink_on("#FFFFFF") == "#000000"
    assert len(set(style.FAMILY_COLOURS.values())) == len(style.FAMILY_COLOURS)


def test_crowded_ticks_are_thinned(group: Group) -> None:
    (axes,) = axes_of(throughput.draw(group))
    style.token_axis(axes, [1, 4096, 4100, 8192])
    assert axes.get_xticks().tolist() == [1, 4096, 8192]
