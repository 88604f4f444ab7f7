"""The report: one Markdown page with its pictures beside it, from the records of one or several runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from harness.records.estimates import MIN_ROUNDS
from harness.records.record import CACHE_MARGIN
from harness.report import execution_tables, headline, method, tables, units
from harness.report.escape import Markdown, code, escape, fenced
from harness.report.executions import Contrast, contrasts
from harness.report.frame import frame, rows_of
from harness.report.gallery import Gallery
from harness.report.groups import Group, groups
from harness.report.machines import ceilings_table, machines_table
from harness.report.plots import PLOTS, executions, sweep
from harness.report.published import published_table
from harness.report.ranking import MOST_NOISE
from harness.report.style import in_style, look_up
from harness.report.summary import summary_tables
from harness.report.sweeps import Sweep, sweeps

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd

    from harness.records.store import Run

__all__ = ["summary_tables", "write_report"]

TEMPLATES = Path(__file__).parent / "templates"
LOG_LINES = 20
FEW = 3
"""Below this many cases a group that is part of a sweep is drawn in the sweep's map only."""


@dataclass(frozen=True)
class Picture:
    """A picture beside the page, the question it answers and how to read it."""

    question: str
    file: str
    reading: str


@dataclass(frozen=True)
class Section:
    """What the page says about one group, or about one sweep."""

    label: Markdown
    pictures: list[Picture]
    description: str = ""
    times: str = ""
    rates: str = ""
    notes: tuple[str, ...] = ()


def write_report(runs: Sequence[Run], out: Path, also: str = "") -> Path:
    """Write ``out/report.md`` and its pictures, and return the path of the page.

    Pictures are PNG; ``also`` is ``pdf`` or ``svg``, for the same in that format beside them. Those of an earlier
    report in ``out`` that this one does not have any more are taken away.

    Raises
    ------
    ValueError
        without runs, or for another format.
    """
    if not runs:
        raise ValueError("runs = []: at least one run")
    gallery = Gallery(out, also)
    out.mkdir(parents=True, exist_ok=True)
    page = out / "report.md"
    earlier = page.read_text(encoding="utf-8", errors="replace") if page.exists() else ""
    text = _page(runs, gallery)
    page.write_text(text, encoding="utf-8", errors="replace")
    gallery.take_down(earlier, text)
    return page


def _page(runs: Sequence[Run], gallery: Gallery) -> str:
    table = frame(runs)
    found = groups(table, look_up(table))
    maps, sets = sweeps(found), contrasts(found)
    mapped = {group for each in maps for group in each.groups}
    # select_autoescape leaves Markdown alone; everything handed over is escaped already.
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=select_autoescape(), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    with in_style():
        sections = [_section(n, group, len(runs), gallery, mapped) for n, group in enumerate(found, start=1)]
        over = [_sweep(n, each, gallery) for n, each in enumerate(maps, start=1)]
        beside = [_contrast(n, each, len(runs), gallery) for n, each in enumerate(sets, start=1)]
    return templates.get_template("report.md.j2").render(
        names=", ".join(dict.fromkeys(escape(run.info.name) for run in runs if run.info.name)),
        machine_count=len(runs),
        overall=headline.overall(found, len(runs)),
        agreement=headline.agreement(table),
        neighbours=method.neighbours(runs),
        headlines=[_headline(group) for group in found],
        failures=headline.failures_table(table, len(runs)),
        machines=machines_table(runs),
        ceilings=ceilings_table(runs),
        wins=tables.WINS,
        shares=tables.SHARES,
        apart=tables.APART,
        few_rounds=MIN_ROUNDS,
        most_noise=units.share(MOST_NOISE),
        cold_margin=CACHE_MARGIN,
        sweeps=over,
        contrasts=beside,
        executions_read=execution_tables.READING,
        sections=sections,
        published=published_table(runs),
        flags=method.FLAGS,
        method=method.method_table(runs),
        logs=list(_logs(table)),
    )


def _headline(group: Group) -> dict[str, object]:
    sentences = [(escape(run), headline.who_wins(group, run)) for run in group.runs]
    return {"label": f"**{escape(group.label)}**", "sentences": sentences}


def _section(number: int, group: Group, runs: int, gallery: Gallery, mapped: set[Group]) -> Section:
    axis = tables.Axis.of(group, runs)
    notes: list[str] = [*tables.absences(group)]
    pictures = []
    if len(group.seeds) > 1:
        notes.append(f"There are {len(group.seeds)} seeds; pictures show the lowest of each case.")
    if group in mapped and len(set(group.table["case_id"])) < FEW:
        notes.append("Too few cases for pictures of their own; who wins is drawn in the map above.")
    else:
        for plot in PLOTS:
            drawn = plot.draw(group)
            if isinstance(drawn, str):
                notes.append(escape(drawn))
            else:
                file = gallery.hang(drawn, f"{number:02d}-{_short(group)}-{plot.name}")
                pictures.append(Picture(plot.question, file, plot.reading))
    return Section(
        label=escape(group.label),
        description=escape(group.description),
        times=tables.times_table(group, axis),
        rates=tables.rates_table(group, axis),
        notes=tuple(notes),
        pictures=pictures,
    )


def _sweep(number: int, each: Sweep, gallery: Gallery) -> Section:
    pictures = []
    for place, run in enumerate(each.runs, start=1):
        file = gallery.hang(sweep.draw(each, run), f"sweep-{number:02d}-{place}")
        pictures.append(Picture(sweep.QUESTION, file, sweep.READING))
    return Section(label=escape(f"Experts and top-k at {each.label}"), pictures=pictures)


def _contrast(number: int, each: Contrast, runs: int, gallery: Gallery) -> Section:
    drawn = executions.draw(each)
    pictures, notes = [], []
    if isinstance(drawn, str):
        notes.append(escape(drawn))
    else:
        file = gallery.hang(drawn, f"executions-{number:02d}")
        pictures.append(Picture(executions.QUESTION, file, executions.READING))
    return Section(
        label=escape(each.label),
        description=execution_tables.in_words(each),
        times=execution_tables.winners_table(each, runs),
        rates=execution_tables.times_table(each, runs),
        notes=tuple(notes),
        pictures=pictures,
    )


def _short(group: Group) -> str:
    """Name a group's files; the number before it tells them apart."""
    shape = group.case.shape
    return f"{shape.name or f'E{shape.experts}-k{shape.top_k}'}-{group.case.pass_}"


def _logs(table: pd.DataFrame) -> Iterator[dict[str, str]]:
    """Each distinct log end once, its last lines only."""
    logged = table[table["log_tail"].str.strip() != ""].drop_duplicates(["run", "impl", "status", "log_tail"])
    for row in rows_of(logged):
        lines = row.log_tail.strip().splitlines()[-LOG_LINES:]
        title = f"{code(row.impl)}, {row.status}, {escape(row.case.label())}, {escape(row.run)}:"
        yield {"title": title, "text": fenced("\n".join(lines))}
