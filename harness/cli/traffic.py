"""Commands that look at routing: ``traffic show`` and ``traffic fit``. Nothing is measured."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 (typer reads annotations)
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from harness import terminal
from harness.cli.app import Json, app, print_json

if TYPE_CHECKING:
    from harness.fitting.results import Fit, Shown

traffic = typer.Typer(
    name="traffic",
    help="Look at routing: draw a traffic, or find the generator a trace resembles.",
    no_args_is_help=True,
)
app.add_typer(traffic)

FIT_TOKENS = 4096
"""More tokens tell generators apart better, and take longer."""


@traffic.command()
def show(
    spec: Annotated[
        str,
        typer.Argument(
            metavar="SPEC", help="A traffic such as gaussian:0.3, trace:FILE?layer=3&phase=decode, or a trace's FILE."
        ),
    ],
    preset: Annotated[str, typer.Option("--preset", metavar="P", help="The layer; olmoe-1b-7b by default.")] = "",
    set_: Annotated[
        list[str], typer.Option("--set", metavar="AXIS=V", help="Change the layer or the seed: --set experts=128.")
    ] = [],  # noqa: B006 (typer reads it, nobody writes it)
    tokens: Annotated[
        int | None, typer.Option("--tokens", metavar="T", help="Tokens; 4096 by default, all rows of a trace.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="PNG", help="Draw a picture, too.")] = None,
    as_json: Json = False,
) -> None:
    """Draw how a traffic spreads over the experts, with its figures beside what chance gives."""
    from harness.running.looks import named_by_file, shown, what_to_show

    named = named_by_file(spec)
    if named != spec:
        terminal.err.print(f"Shown is {named}", markup=False, highlight=False, soft_wrap=True)
    case = what_to_show(named, preset, tuple(set_), tokens)
    with terminal.err.status("routing"):
        found = shown(case)
    sizes = f"E{case.shape.experts} k{case.shape.top_k} {case.shape.router.kind} T={case.traffic.tokens}"
    label = f"{case.traffic.label} on {f'{case.shape.name}, ' if case.shape.name else ''}{sizes}"
    if as_json:
        print_json(found)
    else:
        _show(found, label)
    if out:
        _draw(found, label, out)


def _show(found: Shown, label: str) -> None:
    from harness.report.histogram import histogram_lines
    from harness.report.traffic import shown_table

    terminal.out.print(label, markup=False, highlight=False)
    for line in histogram_lines(found.histogram):
        terminal.out.print(line, markup=False, highlight=False, no_wrap=True, crop=False)
    terminal.out.print(terminal.table("", *shown_table(found)))


def _draw(found: Shown, label: str, out: Path) -> None:
    from harness.report.plots.traffic import draw
    from harness.report.style import in_style

    try:
        with in_style():
            draw(found, label).savefig(out, format="png")
    except OSError as error:
        raise ValueError(f"--out = {str(out)!r}: cannot be written: {error.strerror}") from None
    terminal.err.print(f"Picture: {out}", markup=False, highlight=False, soft_wrap=True)


@traffic.command()
def fit(
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="A trace file, or the name of a shipped one.")],
    layer: Annotated[str, typer.Option("--layer", metavar="A,B", help="Only these layers; all by default.")] = "",
    phase: Annotated[str, typer.Option("--phase", metavar="P", help="Only prefill or only decode.")] = "",
    tokens: Annotated[
        int, typer.Option("--tokens", metavar="T", help="At most so many tokens of a layer, the first ones.")
    ] = FIT_TOKENS,
    as_json: Json = False,
) -> None:
    """Say which generator resembles a trace, property by property, and by how much it misses."""
    from harness.running.looks import fits, what_to_fit

    job = what_to_fit(trace, layer, phase, tokens)
    with terminal.err.status("starting") as status:
        found = fits(job, lambda stage: status.update(escape(stage)))
    if as_json:
        print_json(found)
        return
    for one in found:
        _say(one)


def _say(found: Fit) -> None:
    from harness.report.traffic import candidates_table, figures_table, sentences

    sizes = f"E{found.experts} k{found.top_k} T={found.tokens} in {found.stretches} stretches of text"
    terminal.out.print(terminal.table(f"layer {found.layer}, {sizes}: load", *candidates_table(found)))
    title = f"figures, generators from the lowest to the highest of {found.seeds} seeds, * where that holds the trace's"
    terminal.out.print(terminal.table(title, *figures_table(found)))
    for sentence in sentences(found):
        terminal.out.print(sentence, markup=False, highlight=False, soft_wrap=True)
    terminal.out.print("")
