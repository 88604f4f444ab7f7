"""Routing in words: tables, histograms in characters, the picture, and what is said of each property."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.fitting.figures import FIGURES
from harness.fitting.results import Candidate, Compared, Fit, Range, Repeats, Shown
from harness.report.histogram import HEIGHT, MOST_COLUMNS, histogram_lines
from harness.report.plots.traffic import draw
from harness.report.traffic import candidates_table, figures_table, sentences, shown_table


def around(value: float, reach: float = 0.1) -> Range:
    return Range(mean=value, low=value - reach, high=value + reach)


def candidate(kind: str, miss: float, own: float) -> Candidate:
    own_miss = Range(mean=own, low=own / 2, high=own)
    return Candidate(
        kind=kind, spread=f"{kind}:0.3", parameter=0.3, low=0.25, high=0.36, score=miss, miss=miss, own_miss=own_miss
    )


def a_fit(**changes: Any) -> Fit:
    figures = {"shared_excess": 2.0, "later_excess": 1.8, "first_repeats": 0.2, "lift_scatter": 0.9}
    figures |= {"closest_lift": 4.0, "window_max_over_mean": 3.0}
    fields: dict[str, Any] = {
        "layer": 3,
        "tokens": 512,
        "experts": 64,
        "top_k": 8,
        "stretches": 2,
        "seeds": 40,
        "candidates": [candidate("gaussian", 0.03, 0.05), candidate("zipf", 0.2, 0.02), candidate("tile", 0.3, 0.02)],
        "repeats": Repeats(spread="temporal:0.4", rho=0.4, low=0.35, high=0.45, excess=2.0, at_the_end=False),
        "figures": [
            Compared(figure=name, trace=value, chance=around(0.5), load=around(1.0), repeats=around(value))
            for name, value in figures.items()
        ],
        "by_load": {"load": True, "bursts": False, "repeats": False, "co-activation": False},
        "by_repeats": {"load": False, "bursts": False, "repeats": True, "co-activation": False},
    }
    return Fit(**(fields | changes))


def said(**changes: Any) -> dict[str, str]:
    return {text.split(":")[0]: text for text in sentences(a_fit(**changes))}


def test_every_property_gets_its_sentence() -> None:
    told = said()
    assert list(told) == ["Load", "Bursts", "Repeats", "Co-activation"]
    assert told["Load"].startswith("Load: like gaussian:0.3 (95 %: 0.25 to 0.36): 3.0 % of the slots")
    assert "No generator changes its popular experts" in told["Bursts"]
    assert "like temporal:0.4 (95 %: 0.35 to 0.45). Its load is another: no generator has both" in told["Repeats"]
    assert told["Co-activation"].endswith("No generator ties experts together: only the trace itself has this.")


def test_what_independent_tokens_have_is_said_so() -> None:
    told = said(by_load={"load": True, "bursts": True, "repeats": True, "co-activation": True})
    assert "No generator" not in "".join(told.values())
    assert "independent tokens do as well (0.900 to 1.10)" in told["Repeats"]
    assert "experts meet as their load has it" in told["Co-activation"]


def test_a_load_that_nothing_has() -> None:
    told = said(candidates=[candidate("gaussian", 0.2, 0.05)])
    assert told["Load"].startswith("Load: no generator reproduces it. Nearest is gaussian:0.3")


def test_experts_that_the_generator_would_use() -> None:
    dead = Compared(figure="dead_experts", trace=8.0, load=Range(mean=0.5, low=0.0, high=1.0))
    told = said(figures=[*a_fit().figures, dead])
    assert "But 8 experts get no token, in the generator 0 to 1." in told["Load"]


def test_generators_that_cannot_be_told_apart() -> None:
    told = said(candidates=[candidate("gaussian", 0.03, 0.05), candidate("dirichlet", 0.04, 0.05)])
    assert "cannot tell it from dirichlet:0.3" in told["Load"]


def test_repeats_that_last_longer_than_any_generator_has_them() -> None:
    told = said(by_repeats={"repeats": False})
    assert "No generator reproduces how experts repeat. Nearest is temporal:0.4" in told["Repeats"]
    assert "16 tokens later the trace still has 1.80x" in told["Repeats"]


def test_fewer_repeats_than_chance() -> None:
    figures = [Compared(figure="shared_excess", trace=0.2, load=around(1.0)), *a_fit().figures[1:]]
    assert "fewer than independent tokens" in said(figures=figures)["Repeats"]


def test_repeats_explain_which_experts_meet() -> None:
    told = said(by_repeats={"repeats": True, "load": True, "co-activation": True})
    assert told["Co-activation"].endswith("temporal:0.4 0.800 to 1.00: repeats along the text explain it.")


def test_what_is_not_defined_is_not_spoken_of() -> None:
    assert list(said(by_load={"load": True}, repeats=None, by_repeats={})) == ["Load"]


def test_tables_of_a_fit() -> None:
    headers, rows = candidates_table(a_fit())
    assert headers[0] == "generator"
    assert rows[0] == ("gaussian:0.3", "0.25 to 0.36", "3.0 %", "2.5 % to 5.0 %", "yes")
    assert rows[1][-1] == "no"
    headers, rows = figures_table(a_fit())
    assert headers == ("figure", "trace", "uniform", "gaussian:0.3", "temporal:0.4")
    assert [row[-1].endswith("*") for row in rows] == [True] * len(rows)
    assert not any(row[2].endswith("*") for row in rows)
    headers, _ = figures_table(a_fit(by_load={"repeats": True}))
    assert "temporal:0.4" not in headers


def a_look(histogram: list[int]) -> Shown:
    return Shown(
        tokens=8,
        experts=len(histogram),
        top_k=1,
        histogram=histogram,
        figures=dict.fromkeys(FIGURES) | {"max_over_mean": 2.0, "first_repeats": 0.5},
        chance={"max_over_mean": around(1.2)},
        chance_curve=sorted((float(c) for c in histogram), reverse=True),
        seeds=20,
    )


def test_what_is_shown_stands_beside_chance() -> None:
    headers, rows = shown_table(a_look([4, 2, 1, 1]))
    assert headers[-1] == "by chance: uniform, 20 seeds"
    assert rows == [("busiest over mean", "2.00", "1.10 to 1.30"), ("first choice repeats", "0.500", "-")]


@pytest.mark.parametrize("histogram", [[4, 2, 1, 1], [0, 0], list(range(300))])
def test_the_picture_has_a_bar_an_expert(histogram: list[int]) -> None:
    axes = draw(a_look(histogram), "mine").axes[0]
    bars = axes.containers[0]
    heights = [bar.get_height() for bar in bars]
    assert heights == sorted(heights, reverse=True)
    assert len(heights) == len(histogram)
    assert sum(heights) == pytest.approx(len(histogram) if sum(histogram) else 0)


def test_the_picture_says_what_stands_in_brackets() -> None:
    look = a_look([4, 2, 1, 1])
    look.figures = dict.fromkeys(FIGURES, 0.125)
    look.chance = dict.fromkeys(FIGURES, around(0.125))
    title = draw(look, "mine").axes[0].get_title(loc="left")
    assert title.startswith(
        "busiest over mean 0.125 (0.0250 to 0.225), CV2 ".replace(" ", "\u00a0").replace(",\u00a0", ", ")
    )
    lines = title.replace("\u00a0", " ").split("\n")
    assert lines[-1].endswith("in brackets uniform traffic, 20 seeds")
    assert not any(line.startswith("(") for line in lines), "a figure and its brackets stay together"


def test_every_figure_is_explained_in_its_order() -> None:
    text = (Path(__file__).parents[2] / "docs" / "traces.md").read_text(encoding="utf-8")
    table = text.partition("## The figures of a routing")[2].partition("\n## ")[0]
    first = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")]
    assert first == ["figure", *(figure.words for figure in FIGURES.values())]


def test_a_histogram_by_hand() -> None:
    lines = histogram_lines([0, 8, 4, 4])
    assert lines[0] == " 2.00x " + "█" * 6
    assert lines[4].startswith("    1x " + "█" * 18)
    assert lines[-1].strip() == "4 experts, busiest first"
    assert histogram_lines([0, 0]) == ["no tokens"]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=400).filter(any))
def test_histograms_fit_a_terminal_and_fall(counts: list[int]) -> None:
    *rows, foot = histogram_lines(counts)
    assert len(rows) == HEIGHT
    assert all(len(row) <= 7 + MOST_COLUMNS for row in rows)
    top = max(counts) * len(counts) / sum(counts)
    assert top < 8 / 7 + 0.01 or len(counts) > MOST_COLUMNS or [row[:7].strip() for row in rows].count("1x") == 1
    columns = ["".join(row.ljust(80)[place] for row in rows).strip() for place in range(7, 7 + MOST_COLUMNS)]
    heights = [len(column) for column in columns]
    assert heights == sorted(heights, reverse=True)
    assert ("to a column" in foot) == (len(counts) > MOST_COLUMNS)
