"""The answer in plain sentences, and what stands in its way."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from harness.report import units
from harness.report.escape import Markdown, bold, code, escape, markdown_table
from harness.report.frame import rows_of
from harness.report.ranking import rankable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from harness.report.groups import Group, Outcome


def overall(groups: Sequence[Group], runs: int) -> Markdown:
    """One sentence over everything: how many cases each implementation won."""
    found = [outcome for group in groups for outcome in group.outcomes]
    wins: defaultdict[str, int] = defaultdict(int)
    for outcome in found:
        if outcome.standing.winner:
            wins[outcome.standing.winner] += 1
    unclear = sum(_unclear(outcome) for outcome in found)
    shared = sum(len(outcome.standing.winners) > 1 for outcome in found) - unclear
    nobody = sum(not outcome.standing.winners for outcome in found)
    parts = [f"{code(name)} alone is fastest in {count}" for name, count in sorted(wins.items(), key=lambda i: -i[1])]
    parts += [f"{shared} {'is a tie' if shared == 1 else 'are ties'}"] if shared else []
    parts += [f"in {unclear} the fastest cannot be told apart"] if unclear else []
    parts += [f"in {nobody} nothing could be ranked"] if nobody else []
    where = f"{units.plural(len(found), 'case')} in {units.plural(len(groups), 'group')}"
    where += f", from {runs} runs" if runs > 1 else ""
    return Markdown(f"Of {where}: {', '.join(parts)}.")


def who_wins(group: Group, run: str) -> Markdown:
    """Sentences on one group on one machine: who wins where, by how much, and what sparsity costs."""
    found = [outcome for outcome in group.outcomes if outcome.run == run]
    ranked = [outcome for outcome in found if outcome.standing.winners]
    if not ranked:
        statuses = ", ".join(sorted({status for outcome in found for status in outcome.statuses}))
        return Markdown(
            f"nothing could be ranked in {units.plural(len(found), 'case')} (statuses: {escape(statuses)})."
        )
    by_winner: defaultdict[str, list[Outcome]] = defaultdict(list)
    for outcome in ranked:
        by_winner[outcome.standing.winner or ""].append(outcome)
    shared = by_winner.pop("", [])
    ties, unclear = [o for o in shared if not _unclear(o)], [o for o in shared if _unclear(o)]
    clauses = [_win(name, by_winner[name], ranked) for name in sorted(by_winner, key=lambda n: (-len(by_winner[n]), n))]
    clauses += [_tie(ties, ranked, "tie")] if ties else []
    clauses += [_tie(unclear, ranked, "cannot be told apart") + _why_unclear(unclear)] if unclear else []
    left = len(found) - len(ranked)
    clauses += [f"in {units.plural(left, 'case')} nothing could be ranked"] if left else []
    return Markdown("; ".join(clauses) + "." + _beside(ranked))


def _win(name: str, cases: list[Outcome], ranked: list[Outcome]) -> str:
    """How often, where and by how much one implementation alone was fastest."""
    margins = [case.standing.margin for case in cases if case.standing.margin is not None]
    if not margins:
        return f"{code(name)} is the only one ranked in {_where(cases, ranked)}"
    lead = units.span(units.ratio(min(margins)), units.ratio(max(margins)))
    middle = f", in the median {units.ratio(statistics.median(margins))}" if len(margins) > 2 else ""
    return f"{code(name)} is fastest in {_where(cases, ranked)}, by {lead} over the next{middle}"


def _tie(cases: list[Outcome], ranked: list[Outcome], what: str) -> str:
    """Where there is no single winner, and who shares the win how often; ``what`` they do then."""
    times = Counter(name for case in cases for name in case.standing.winners)
    names = sorted(times, key=lambda name: (-times[name], name))
    if set(times.values()) == {len(cases)}:
        return f"{_listed([code(name) for name in names])} {what} in {_where(cases, ranked)}"
    shared = _listed([f"{code(name)} in {times[name]}" for name in names])
    head = "there are ties" if what == "tie" else f"the fastest {what}"
    return f"{head} in {_where(cases, ranked)}, shared by {shared}"


def _unclear(outcome: Outcome) -> bool:
    """Whether a win is shared only because too little is known: that is no tie."""
    return outcome.standing.few or outcome.standing.noisy


def _why_unclear(cases: list[Outcome]) -> str:
    few = [case.standing.rounds for case in cases if case.standing.few]
    noisy = [math.expm1(case.standing.noise_floor) for case in cases if case.standing.noisy]
    why = [f"{units.spread(few)} {'round' if max(few) == 1 else 'rounds'}, too few for a verdict"] if few else []
    why += [f"a noise floor of {units.span(units.share(min(noisy)), units.share(max(noisy)))}"] if noisy else []
    return f", with {' and '.join(why)}"


def _listed(words: list[str]) -> str:
    return ", ".join(words[:-1]) + f" and {words[-1]}"


def _where(cases: list[Outcome], ranked: list[Outcome]) -> str:
    """How many cases, their token counts, and their traffics unless those are all there are."""
    spreads = dict.fromkeys(case.spread for case in cases)
    everywhere = set(spreads) == {case.spread for case in ranked}
    counts = _stretches({case.tokens for case in cases}, sorted({case.tokens for case in ranked}))
    number = f"{len(cases)} of {units.plural(len(ranked), 'case')}" if len(ranked) > 1 else "the only case"
    return f"{number} (T = {counts}" + ("" if everywhere else f"; {escape(', '.join(spreads))}") + ")"


def _stretches(chosen: set[int], everything: list[int]) -> str:
    """Name some of the token counts that occur, joining three and more neighbours: ``1, 16 to 256``."""
    stretches: list[list[int]] = [[]]
    for count in everything:
        if count in chosen:
            stretches[-1].append(count)
        elif stretches[-1]:
            stretches.append([])
    named = [f"{s[0]} to {s[-1]}" if len(s) > 2 else ", ".join(map(str, s)) for s in stretches if s]
    return ", ".join(named)


def _beside(ranked: list[Outcome]) -> str:
    """Say what the winners reach of the floor, and what they cost beside a dense layer."""
    shares = [o.best.share_of_floor for o in ranked if o.best and units.present(o.best.share_of_floor)]
    costs = [outcome.cost_of_sparsity for outcome in ranked if units.present(outcome.cost_of_sparsity)]
    said = ""
    if shares:
        said += (
            f" The fastest reach {units.span(units.share(min(shares)), units.share(max(shares)))} of the floor's speed."
        )
    if costs:
        times = units.span(units.ratio(min(costs)), units.ratio(max(costs)))
        said += f" They take {times} the time of a dense layer with the same active FLOPs."
    return said


def agreement(table: pd.DataFrame) -> Markdown:
    """Whether everything ranked agrees with the float64 oracle, and which came nearest to its tolerance."""
    fit = table[rankable(table)]
    if fit.empty:
        return Markdown("No record could be ranked, so there is nothing to say about speed.")
    worst = fit.assign(used=fit["error"] / fit["tolerance"]).dropna(subset="used").nlargest(1, "used")
    who = f"All {len(fit)} ranked records agree" if len(fit) > 1 else "The only ranked record agrees"
    said = f"{who} with the float64 oracle"
    for record in rows_of(worst):
        case = escape(record.case.label())
        said += (
            f"; nearest to its tolerance came {code(record.impl)} with a relative error of {record.error:.2g} in"
            f" {code(record.error_at)}, {record.tolerance:.2g} allowed ({case})"
        )
    return Markdown(said + ".")


MAX_ROWS = 60
"""Rows of the table of failures; a sentence says how many more there are."""


def failures_table(table: pd.DataFrame, runs: int) -> Markdown:
    """List what has no ranked time, and why: a row a machine, implementation, status and reason; unsupported last."""
    failed = table[table["status"] != "ok"]
    failed = failed.sort_values("status", key=lambda column: column == "unsupported", kind="stable")
    rows = []
    for (run, impl, status, reason), part in failed.groupby(["run", "impl", "status", "reason"], sort=False):
        first = part["case"].iloc[0].label()
        cases = first if len(part) == 1 else f"{len(part)} cases, the first {first}"
        rows.append([*([str(run)] * (runs > 1)), code(str(impl)), bold(str(status)), cases, str(reason)])
    headers = [*(["machine"] * (runs > 1)), "implementation", "status", "cases", "reason"]
    if not rows:
        return Markdown("")
    more = len(rows) - MAX_ROWS
    left = f"\n\n{more} more rows are in `records.jsonl`." if more > 0 else ""
    return Markdown(markdown_table(headers, rows[:MAX_ROWS]) + left)
