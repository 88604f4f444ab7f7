"""The history as people see it: sentences, tables, the page and its picture, from runs written to a disk."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from matplotlib.image import imread

from harness.records.figures import TRACKED
from harness.records.history import collect, selection
from harness.records.record import ImplInfo
from harness.records.runs import find_runs
from harness.records.store import RunStore
from harness.report.history import PAGE, PICTURE, History, headline, step_lines, unmeasured_lines, write_history
from harness.report.history_tables import point_table, run_table, series_table
from harness.report.panels import panels_of
from harness.report.plots import history as plot
from harness.report.style import in_style

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from harness.records.record import Record

START = datetime(2026, 9, 1, 10, tzinfo=UTC)
WOBBLE = (0.0, 0.003, -0.002, 0.001, -0.003)


class Past:
    """Runs three days apart, each on a commit of its own."""

    def __init__(self, make: Any, folder: Path) -> None:
        self.make = make
        self.folder = folder
        self.count = 0

    def commit(self, number: int) -> str:
        return hashlib.sha1(str(number).encode(), usedforsecurity=False).hexdigest()

    def add(self, records: Sequence[Record], name: str = "", **environment: Any) -> None:
        date = START + timedelta(days=3 * self.count)
        store = RunStore(self.folder / (name or f"nightly-{self.count:02d}"))
        store.write_info(self.make.info(started_at=date.isoformat()))
        given = {"git_sha": self.commit(self.count)} | environment
        store.write_environment(msgspec.structs.replace(self.make.environment(), **given))
        store.append(records)
        self.count += 1

    def timed(self, ns: float, impl: str = "fused_triton", case: Any = None) -> Record:
        wobbled = ns * (1 + WOBBLE[self.count % len(WOBBLE)])
        record: Record = self.make.timed(case or self.make.case(), impl, wobbled, spread=0.004)
        assert record.timing is not None
        if impl == "dense":
            record.timing.control_ns = record.timing.samples_ns
        return record

    def ask(self, what: str = "tiny-moe", measure: str = "time") -> History:
        runs = find_runs(self.folder).runs
        return History(what, TRACKED[measure], tuple(collect(runs, TRACKED[measure], selection(runs, what, None))))


@pytest.fixture
def past(make: Any, tmp_path: Path) -> Past:
    return Past(make, tmp_path / "runs")


@pytest.fixture
def eventful(past: Past) -> Past:
    """A step at the sixth run, a new torch at the eleventh, and three implementations that each fail in their way."""
    case = past.make.case()
    torch: dict[str, Any] = {"versions": {"torch": "2.14.0"}}
    for n in range(15):
        records = [past.timed(6e5, "dense"), past.timed(1.03e6 if n >= 5 else 9.2e5)]
        records.append(past.make.failed(case, "einsum", "unsupported", "it does not"))
        records.append(past.timed(1.9e6, "loop") if n < 14 else past.make.failed(case, "loop", "crashed", "SIGSEGV"))
        if n in {2, 3}:
            records[1] = past.make.failed(case, "fused_triton", "disagrees", "y differs by 0.31")
        past.add(records, **(torch if n >= 10 else {}))
    return past


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def picture(history: History) -> Figure:
    with in_style():
        figure = plot.draw(history.panels, history.metric, history.what)
        figure.draw_without_rendering()
    return figure


def test_a_step_in_plain_words(eventful: Past) -> None:
    (line,) = step_lines(eventful.ask())
    since, until = eventful.commit(5)[:7], eventful.commit(4)[:7]
    pattern = (
        rf"fused_triton on tiny-moe .* T=64 .*; gpu-07, NVIDIA H100 80GB HBM3: slower by 12 % since {since} "
        rf"\(2026-09-16\): 9\d\d µs until {until} \(2026-09-13\), then 1\.03 ms; noise up to [\d.]+ %"
    )
    assert re.fullmatch(pattern, line)


def test_a_step_of_the_newest_run_without_a_change_of_code(past: Past) -> None:
    for n in range(8):
        past.add([past.timed(1e6 if n < 7 else 8e5)], git_sha="f" * 40)
    (line,) = step_lines(past.ask())
    assert "faster by 20 % since fffffff" in line
    assert line.endswith(
        "it stands on the newest run alone, so measure again; both are the same code, so look at the machine"
    )


def test_without_commits_runs_are_named(past: Past) -> None:
    for n in range(8):
        past.add([past.timed(1e6 if n < 4 else 2e6)], git_sha=None)
    (line,) = step_lines(past.ask())
    assert "slower by 100 % since nightly-04 (2026-09-13): " in line


def test_no_step_and_too_few_points_are_told_apart(past: Past) -> None:
    for n in range(5):
        few = [past.timed(1e6, "loop")] if n > 2 else []
        past.add([past.timed(1e6), *few])
    assert step_lines(past.ask()) == [
        "No step that is larger than the noise.",
        "Series with fewer than 4 points: 1 of 2; too few to tell a step from noise, none claimed.",
    ]
    assert step_lines(past.ask("loop")) == [
        "Series with fewer than 4 points: all; too few to tell a step from noise, none claimed."
    ]


def test_headline_and_what_was_never_measured(eventful: Past) -> None:
    history = eventful.ask()
    assert headline(history) == "6 series of 1 case in 15 runs, 2026-09-01 to 2026-10-13"
    assert unmeasured_lines(history) == [
        "einsum: 15 records of 1 case, none with a figure; the newest is unsupported: it does not"
    ]


def test_of_an_implementation_never_measured_the_newest_record_is_told(past: Past) -> None:
    small, large = past.make.case(8), past.make.case(64)
    past.add([past.timed(1e6), past.make.failed(large, "einsum", "oom", "it needs 2 GiB more")])
    past.add([past.timed(1e6), past.make.failed(small, "einsum", "crashed", "SIGSEGV")])
    assert unmeasured_lines(past.ask()) == [
        "einsum: 2 records of 2 cases, none with a figure; the newest is crashed: SIGSEGV"
    ]


def test_a_line_a_series(eventful: Past) -> None:
    history = eventful.ask()
    (panel,) = history.panels
    headers, rows = series_table(panel, history.metric)
    table = [dict(zip(headers, row, strict=True)) for row in rows]
    fused, *_, loop = [row for row in table if row["implementation"] in {"fused_triton", "loop"}]
    assert fused["points"] == "8 and 2 gaps"
    assert fused["steps"] == "1"
    assert fused["over yardstick"].endswith("x dense")
    assert fused["last measured"] == "2026-09-28"
    assert fused["software"] == "torch 2.13.0+cu128, driver 570.86.15"
    assert loop["last measured"] == "2026-10-10, now crashed"
    assert loop["steps"] == "none; new series: torch 2.13.0+cu128 → 2.14.0"
    assert set(headers) - set(series_table(panel, history.metric, without=("software",))[0]) == {"software"}


def test_a_line_a_point(eventful: Past) -> None:
    history = eventful.ask()
    headers, rows = point_table(history.panels[0], history.metric)
    table = [dict(zip(headers, row, strict=True)) for row in rows]
    fused = [row for row in table if row["implementation"] == "fused_triton"]
    assert [row["value"] for row in fused][:4] == ["920 µs", "923 µs", "disagrees", "disagrees"]
    assert re.fullmatch(r"9\d\d µs to 9\d\d µs", fused[0]["95 % interval"])
    assert [row["note"] for row in fused][2:6] == ["y differs by 0.31", "y differs by 0.31", "", "slower by 12 %"]
    assert fused[10]["note"] == "new series: torch 2.13.0+cu128 → 2.14.0"
    assert [row["run"] for row in fused] == [f"nightly-{n:02d}" for n in range(15)]
    assert {row["over yardstick"] for row in table if row["implementation"] == "dense"} == {"-"}


def test_a_line_a_run(eventful: Past) -> None:
    history = eventful.ask()
    headers, rows = run_table(history.panels[0], history.metric)
    assert headers == ["day", "commit", "dense", "fused_triton", "loop"]
    assert rows[0][:2] == ["2026-09-01", eventful.commit(0)[:7]]
    assert rows[2][2:] == ["599 µs", "disagrees", "1.90 ms (3.16x dense)"]
    assert rows[-1][-1] == "crashed"


def test_ratios_to_different_yardsticks_are_told_apart(past: Past) -> None:
    """Whoever is slow beside one of them is fast beside another, and nothing has changed."""
    for yardstick in ("dense", "loop"):
        records = [past.timed(1e6), past.timed(5e5, "dense"), past.timed(4e6, "loop")]
        for record in records:
            assert record.timing is not None
            record.timing.control_ns = record.timing.samples_ns if record.impl.name == yardstick else None
        past.add(records)
    (panel,) = past.ask("fused_triton").panels
    _, rows = run_table(panel, TRACKED["time"])
    assert [row[-1].split(" (")[1] for row in rows] == ["2.00x dense)", "0.25x loop)"]


@pytest.mark.parametrize(
    ("measure", "shown"),
    [("tokens_per_second", "k tokens/s"), ("memory", "MiB"), ("energy", "mJ/token"), ("relative", "x")],
)
def test_every_measure_has_a_page_with_its_units(past: Past, tmp_path: Path, measure: str, shown: str) -> None:
    environment = past.make.environment()
    for _ in range(5):
        records = [past.make.modelled(past.make.case(), impl, environment) for impl in ("dense", "loop")]
        records[0].timing.control_ns = records[0].timing.samples_ns
        past.add(records)
    history = past.ask("loop", measure)
    page = write_history(history, tmp_path / "out").read_text()
    value = point_table(history.panels[0], history.metric)[1][0][4]
    assert value.endswith(shown)
    assert value in page
    assert not re.search(r"\bnan\b", page)


def test_the_page_and_its_picture(eventful: Past, tmp_path: Path) -> None:
    page = write_history(eventful.ask(), tmp_path / "out")
    assert page == tmp_path / "out" / PAGE
    text = page.read_text()
    assert text.startswith("# moebench history: `tiny-moe`, time of one call\n")
    assert f"]({PICTURE})" in text
    assert "slower by 12 %" in text
    assert "einsum: 15 records of 1 case" in text
    assert imread(tmp_path / "out" / PICTURE).shape[1] == 990


def test_the_picture_says_what_it_shows(eventful: Past) -> None:
    figure = picture(eventful.ask())
    (axes,) = figure.axes
    assert figure.get_suptitle() == "How did the time of one call change from run to run?\nAsked for: tiny-moe"
    assert axes.get_ylabel() == "time of one call, µs"
    assert axes.get_title(loc="left").startswith("tiny-moe (H2048 I768 E64 k8) T=64")
    said = texts(axes)
    assert f"+12.0 % since {eventful.commit(5)[:7]}" in said
    assert said.count("disagrees") == 1, "a stretch is named once"
    assert said.count("crashed") == 1
    assert "torch 2.13.0+cu128 → 2.14.0" in said
    assert {"dense (baseline)", "fused_triton", "loop, now crashed"} <= set(said)
    assert "einsum" not in " ".join(said), "what has no figure at all is not drawn"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(labels) == 4
    ticks = [tick.get_text() for tick in axes.get_xticklabels()]
    assert ticks[-1] == f"{eventful.commit(14)[:7]}\n2026-10-13"
    assert len(ticks) <= plot.LABELS


def test_levels_and_gaps_are_drawn_where_they_are(eventful: Past) -> None:
    (axes,) = picture(eventful.ask("fused_triton")).axes
    bands = [line for line in axes.lines if line.get_alpha() == plot.SHADED]
    spans = [np.round(np.asarray(line.get_xdata(), dtype=float), 1).tolist() for line in bands]
    assert spans == [[-0.3, 4.3], [4.7, 9.3]]
    heights = [np.asarray(line.get_ydata(), dtype=float)[0] for line in bands]
    assert heights == pytest.approx([920, 1030], rel=0.01)
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    assert [np.asarray(line.get_xdata()).tolist() for line in crosses] == [[2], [3]]
    low, high = axes.get_ylim()
    assert low < 900
    assert high > 1040


def test_a_calm_series_does_not_fill_the_axis_with_noise(past: Past) -> None:
    for _ in range(5):
        past.add([past.timed(1e6)])
    low, high = picture(past.ask()).axes[0].get_ylim()
    assert high / low > 1.25


def test_values_far_apart_are_drawn_on_a_logarithmic_axis(past: Past) -> None:
    for _ in range(2):
        past.add([past.timed(1e5), past.timed(1e7, "loop")])
    assert picture(past.ask()).axes[0].get_yscale() == "log"


def test_a_relative_time_names_its_yardstick(eventful: Past) -> None:
    axes = picture(eventful.ask("fused_triton", "relative")).axes[0]
    assert axes.get_ylabel() == "time over dense's, times"


def test_one_point(past: Past, tmp_path: Path) -> None:
    past.add([past.timed(1e6)])
    text = write_history(past.ask(), tmp_path / "out").read_text()
    assert "1 series of 1 case in 1 run, 2026-09-01." in text


def test_twelve_panels_and_a_word_on_the_others(past: Past, tmp_path: Path) -> None:
    cases = [past.make.case(tokens) for tokens in range(1, 15)]
    past.add([past.timed(1e6, case=case) for case in cases])
    past.add([past.timed(1e6, case=case) for case in cases])
    past.add([past.timed(1e6, case=cases[13])])
    history = past.ask()
    panels = panels_of(history.series)
    assert len(panels) == 14
    assert "T=14 " in panels[0].label, "what was measured last comes first"
    assert len(picture(history).axes) == plot.MOST
    text = write_history(history, tmp_path / "out").read_text()
    assert "The picture shows 12 of 14 panels, without those measured longest ago; the tables below hold all." in text
    assert all(f"T={tokens} " in text for tokens in range(1, 15))


def test_panels_of_a_single_run_are_left_to_the_tables(past: Past, tmp_path: Path) -> None:
    """Nothing can have changed there; a gap is a change, and where there is nothing else they are drawn."""
    lone, twice, gone = (past.make.case(tokens) for tokens in (1, 2, 3))
    past.add([past.timed(1e6, case=case) for case in (lone, twice, gone)])
    assert len(picture(past.ask()).axes) == 3
    past.add([past.timed(1e6, case=twice), past.make.failed(gone, "fused_triton", "oom")])
    drawn = picture(past.ask())
    assert [axes.get_title(loc="left").split(" T=")[1][0] for axes in drawn.axes] == ["2", "3"]
    assert drawn.get_suptitle().endswith("Asked for: tiny-moe; 2 of 3 panels, without 1 of a single run")
    text = write_history(past.ask(), tmp_path / "out").read_text()
    assert "The picture shows 2 of 3 panels, without 1 of a single run; the tables below hold all." in text
    assert "T=1 " in text


def test_hosts_have_panels_of_their_own(past: Past) -> None:
    for host in ("one", "two"):
        past.add([past.timed(1e6)], hostname=host)
    assert [panel.label.split("; ")[1][:3] for panel in past.ask().panels] == ["two", "one"]


def test_hostile_names_are_shown_and_never_obeyed(past: Past, tmp_path: Path) -> None:
    evil = "a|b`<script>alert(1)</script>\n# $x_1$ [c](d)\x1b[31m"
    for n in range(5):
        records = [past.timed(1e6 if n < 3 else 2e6), past.timed(1e6, "loop")]
        records[0].impl = ImplInfo(name=evil, family=evil)
        if n == 4:
            records[1] = past.make.failed(past.make.case(), "loop", "crashed", evil)
        past.add(records, hostname=evil, git_sha="<b>|" + "z" * 20, versions={"torch": evil if n else "2.13.0"})
    history = past.ask(evil)
    assert history.measured
    text = write_history(history, tmp_path / "out").read_text()
    assert "<script>" not in text.split("\n", 1)[1], "but in the title, which holds it as code"
    assert "\x1b" not in text
    assert not re.search(r"^# \$", text, re.MULTILINE)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    assert all("\n" not in line for line in (*step_lines(history), *unmeasured_lines(history)))


def test_nothing_to_show_is_refused(past: Past, tmp_path: Path) -> None:
    past.add([past.make.failed(past.make.case(), "loop", "oom")])
    with pytest.raises(ValueError, match="history of 'loop': no record holds a figure"):
        write_history(past.ask("loop"), tmp_path / "out")


def test_a_place_that_cannot_be_written_is_named(past: Past, tmp_path: Path) -> None:
    past.add([past.timed(1e6)])
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^--out = .*file/sub'?: cannot be written: Not a directory$"):
        write_history(past.ask(), tmp_path / "file" / "sub")
