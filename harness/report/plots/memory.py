"""Where the bytes go, implementation by implementation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.patches import Patch

from harness.report import style, units
from harness.report.frame import rows_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from harness.report.frame import Row
    from harness.report.groups import Group

QUESTION = "How much memory does one call need beside the weights?"
READING = (
    "Bytes while one call runs alone. Copies are extra weights made once, in prepare; workspace is what stands at the "
    "peak without the output, and where there is a backward pass a part of it is saved for it by forward. The figure "
    "after a bar is all that comes on top of the weights, *beside weights* in the table, and what `compare` and "
    "`history` call memory. Drawn at the highest T; before it, where somebody has no figure there, at the highest T at "
    "which most have one. Shorter is leaner."
)

SEGMENTS = {
    "weights": "#BDBDBD",
    "copies of weights": "#5F5F5F",
    "workspace, saved for backward": "#7FB8DA",
    "workspace": "#0F4C81",
    "output": "#8FBC8F",
}
REST = "workspace, the rest"
"""What the legend calls the workspace where a part of it is drawn as saved for backward."""


def draw(group: Group) -> Figure | str:
    """Draw panels of stacked bars, one an implementation, for each machine under the main traffic.

    At the highest token count; and before it, where that leaves somebody out, at the highest of which most are known.
    """
    rows = group.drawn[group.drawn["spread"] == group.main_spread]
    known = rows[rows["workspace_bytes"].notna()]
    if known.empty:
        return "Memory: not drawn, no record holds a measured workspace."
    counts = _counts(known)
    rows = rows[rows["tokens"].isin(counts)]
    keys = [(run, count) for run in group.runs for count in counts if len(_of(rows, run, count))]
    bars = max(len(_of(rows, *key)) for key in keys)
    figure, panels = style.panels([f"T = {count}; {run}" for run, count in keys], height=1.3 + 0.36 * bars)
    style.entitle(figure, QUESTION, f"{group.label}; traffic {group.main_spread}")
    highest = max(sum(_segments(row).values()) for row in rows_of(rows))
    for axes, key in zip(panels, keys, strict=True):
        _panel(axes, group, _of(rows, *key), highest)
    drawn = {label for row in rows_of(rows) for label in _segments(row)}
    names = {"workspace": REST} if "workspace, saved for backward" in drawn else {}
    handles = [
        Patch(color=colour, label=names.get(label, label)) for label, colour in SEGMENTS.items() if label in drawn
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), frameon=False)
    return figure


def _counts(known: pd.DataFrame) -> list[int]:
    """Token counts to draw: the highest, and the highest of which most implementations are known."""
    present = known.groupby("tokens")["impl"].nunique()
    fullest = present[present == present.max()].index.max()
    return sorted({int(fullest), int(present.index.max())})


def _of(rows: pd.DataFrame, run: str, tokens: int) -> pd.DataFrame:
    return rows[(rows["run"] == run) & (rows["tokens"] == tokens)]


def _panel(axes: Axes, group: Group, rows: pd.DataFrame, highest: float) -> None:
    """Draw a bar a record; ``highest`` is the longest of the whole figure, so that panels share unit and axis."""
    records = {row.impl: row for row in rows_of(rows)}
    names = [name for name in reversed(group.impls) if name in records]
    scale, unit = units.fitting(highest, units.SCALES["bytes"])
    for place, name in enumerate(names):
        record = records[name]
        left = 0.0
        for label, count in _segments(record).items():
            axes.barh(place, count / scale, left=left, height=0.66, color=SEGMENTS[label])
            left += count / scale
        axes.annotate(
            _note(record), (left, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8.5
        )
    axes.set_yticks(range(len(names)), [f"{n} (baseline)" if n in group.baselines else n for n in names])
    axes.set_xlabel(f"{unit} on the device")
    axes.set_xlim(0, highest / scale * 1.18)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(visible=False, axis="y")


def _segments(row: Row) -> dict[str, float]:
    """Bytes that do not overlap: what is saved for backward is part of the measured workspace."""
    workspace = _known(row.workspace_bytes)
    saved = min(_known(row.saved_bytes), workspace)
    prepared = _known(row.prepared_bytes)
    output = max(0.0, _known(row.beside_weights_bytes) - workspace - prepared)
    parts = (_known(row.weights_bytes), prepared, saved, workspace - saved, output)
    return {label: part for label, part in zip(SEGMENTS, parts, strict=True) if part > 0}


def _note(row: Row) -> str:
    if not units.present(row.beside_weights_bytes):
        return "not measured" if row.status == "ok" else row.status
    return f"+ {units.size(row.beside_weights_bytes)}"


def _known(count: float) -> float:
    return count if units.present(count) else 0.0
