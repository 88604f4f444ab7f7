"""What a person sees: whatever text arrives is shown as it is, nothing is cut and nothing is taken for markup."""

from __future__ import annotations

import io
from collections import Counter

import pytest
from rich.console import Console

from harness import terminal
from harness.cases.case import Case, PlannedCase
from harness.cases.shape import Shape
from harness.cases.traffic import Traffic
from harness.records.record import ImplInfo, Record, Status
from harness.running.blackbox import Announcement
from harness.running.plan import Plan

NASTY = "[bold]half [/nothing] \\"
SHAPE = Shape(hidden=32, expert_hidden=16, experts=4, top_k=2, name=NASTY)
CASE = Case(shape=SHAPE, traffic=Traffic(tokens=8))
PLANNED = PlannedCase(case=CASE, implementations=("loop", "einsum"))


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Both consoles, as narrow as a pipe's."""
    text = io.StringIO()
    for name in ("out", "err"):
        monkeypatch.setattr(terminal, name, Console(file=text, width=40))
    return text


def record(status: Status, reason: str = "") -> Record:
    impl = ImplInfo(name="loop", family="loop")
    return Record(case=CASE, case_id=CASE.case_id, impl=impl, status=status, reason=reason, environment_id="e")


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (42.4, "42 s"), (119, "119 s"), (120, "2 min 0 s"), (3725, "62 min 5 s")]
)
def test_durations_for_people(seconds: float, words: str) -> None:
    assert terminal.duration(seconds) == words


def test_ok_comes_first_in_the_tally() -> None:
    assert terminal.status_line(Counter(unsupported=3, ok=42, disagrees=1)) == "42 ok, 3 unsupported, 1 disagrees"


def test_an_error_is_one_line_however_long(shown: io.StringIO) -> None:
    terminal.fail(f"{NASTY} {'word ' * 30}")
    assert shown.getvalue().rstrip("\n") == f"moebench: {NASTY} {'word ' * 30}".rstrip()


def test_nothing_that_somebody_wrote_reaches_the_terminal_as_more_than_text(shown: io.StringIO) -> None:
    foul = "one\n\x1b[2Jtwo\r\x07"
    terminal.fail(foul)
    terminal.fail("it died", f"{foul}\nthree")
    with terminal.Bar([PLANNED]) as bar:
        bar.done([record("error", foul)])
    terminal.out.print(terminal.table(foul, (foul,), [(foul,)]))
    lines = [line.strip() for line in shown.getvalue().splitlines() if line.strip()]
    assert lines[:5] == ["moebench: one two", "moebench: it died", "one", "two", "three"]
    assert f"error loop on {CASE.label()}: one two" in lines
    assert lines.count("one two") == 3
    assert not set("\x1b\r\x07") & set(shown.getvalue())


def test_tables_show_every_character(shown: io.StringIO) -> None:
    word = "a_name_much_longer_than_what_the_column_has_room_for" + NASTY.replace(" ", "_")
    terminal.out.print(terminal.table(NASTY, ("one", NASTY.replace(" ", "_")), [(word, "x"), ("", "")]))
    squeezed = "".join(shown.getvalue().split())
    assert "..." not in squeezed
    assert "…" not in squeezed
    columns = "".join(line.split()[0] for line in shown.getvalue().splitlines() if line.strip())
    assert word in columns
    assert squeezed.startswith(NASTY.replace(" ", ""))


def test_a_plan_as_a_table(shown: io.StringIO) -> None:
    plan = Plan("mine", NASTY, (PLANNED,), 9.0)
    terminal.out.print(terminal.plan_table(plan, [3 << 29]))
    assert CASE.case_id in [line.split()[0] for line in shown.getvalue().splitlines() if line.strip()]
    assert "1.50" in shown.getvalue()


def test_the_bar_counts_and_tells_what_went_wrong(shown: io.StringIO) -> None:
    with terminal.Bar([PLANNED]) as bar:
        bar.doing(Announcement())
        bar.doing(Announcement(CASE.case_id, NASTY, NASTY))
        bar.done([record("ok"), record("unsupported", "too small")])
        bar.done([record("crashed", f"{NASTY} {'word ' * 30}")])
    assert bar.statuses == Counter(ok=1, unsupported=1, crashed=1)
    lines = [line for line in shown.getvalue().splitlines() if line.startswith("crashed")]
    assert lines == [f"crashed loop on {CASE.label()}: {NASTY} {'word ' * 30}".rstrip()]
    assert "too small" not in shown.getvalue()


def test_the_bar_ends_with_what_ends_the_run(shown: io.StringIO) -> None:
    bar = terminal.Bar([PLANNED])
    with pytest.raises(KeyboardInterrupt), bar:
        raise KeyboardInterrupt
    assert not bar._bar.live.is_started
