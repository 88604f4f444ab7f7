"""What a person sees in the terminal: a progress bar with the time left, tables, one-line errors."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from harness.report.escape import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from harness.cases.case import PlannedCase
    from harness.records.record import Record
    from harness.running.blackbox import Announcement
    from harness.running.plan import Plan

out = Console()
err = Console(stderr=True)
COLOURS = {"ok": "green", "unsupported": "dim"}


class Bar:
    """A progress bar over (case, implementation) pairs. Use as a context manager."""

    def __init__(self, planned: Sequence[PlannedCase]) -> None:
        self._labels = {one.case.case_id: one.case.label() for one in planned}
        self._bar = progress()
        pairs = sum(len(one.implementations or ()) for one in planned)
        self._task = self._bar.add_task("starting", total=pairs)
        self.statuses: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def doing(self, entry: Announcement) -> None:
        """Show the case, the implementation and the stage."""
        label = escape(self._labels.get(entry.case_id, "starting a worker"))
        what = f"{label} [dim]{escape(entry.impl)} {escape(entry.stage)}[/dim]"
        self._bar.update(self._task, description=what)

    def done(self, records: Sequence[Record]) -> None:
        """Advance; whatever is not in order is printed above the bar as it happens."""
        for record in records:
            self.statuses[record.status] += 1
            if record.status not in COLOURS:
                self._bar.console.print(
                    f"[bold red]{record.status}[/] {escape(record.impl.name)} on {escape(record.case.label())}:"
                    f" {escape(one_line(record.reason))}",
                    highlight=False,
                    soft_wrap=True,
                )
        self._bar.advance(self._task, len(records))


def progress() -> Progress:
    """Make a bar that shows what is done, how much of it, and the time left."""
    return Progress(
        TextColumn("{task.description}", table_column=None),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=err,
        speed_estimate_period=600,
        refresh_per_second=4,  # whoever draws takes time from whoever is measured
        transient=True,
    )


def duration(seconds: float) -> str:
    """Seconds for people: 42 s, 3 min 20 s."""
    whole = round(seconds)
    return f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60} s"


def table(title: str, headers: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Build a table; everything in it is plain text, nothing is read as markup, and a cell is one line."""
    built = Table(
        title=Text(one_line(title)) if title else None,
        title_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    cells = [[one_line(cell) for cell in row] for row in rows]
    named = max((len(word) for row in cells for word in row[:1]), default=0)
    for number, header in enumerate(headers):
        built.add_column(
            Text(one_line(header)),
            overflow="fold",  # a name that is cut short cannot be copied
            no_wrap=number == 0 and named <= out.width // 2,  # nor one that is broken
        )
    for row in cells:
        built.add_row(*(Text(cell) for cell in row))
    return built


def fail(message: str, log: str = "") -> None:
    """One line on standard error, whatever the message holds; below it the lines of a log."""
    err.print(f"[bold red]moebench:[/] {escape(one_line(message))}", highlight=False, soft_wrap=True)
    for line in log.splitlines():
        err.print(one_line(line), markup=False, highlight=False, soft_wrap=True)


def plan_table(plan: Plan, memory_bytes: Sequence[int]) -> Table:
    """Show a plan, a line a case."""
    rows = [
        (one.case.case_id, one.case.label(), f"{need / 2**30:.2f}", " ".join(one.implementations or ()))
        for one, need in zip(plan.planned, memory_bytes, strict=True)
    ]
    return table(f"{plan.suite}: {plan.description}", ("case", "what", "GiB", "implementations"), rows)


def status_line(statuses: Counter[str]) -> str:
    """Say how many records ended how: ``42 ok, 3 unsupported, 1 disagrees``."""
    return ", ".join(
        f"{count} {status}" for status, count in sorted(statuses.items(), key=lambda item: item[0] != "ok")
    )
