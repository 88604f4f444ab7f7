"""The answer in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.records.record import Agreement
from harness.report import headline
from harness.report.frame import frame

if TYPE_CHECKING:
    from harness.records.record import Record
    from tests.report.conftest import Factory


def sentence(make: Factory, records: list[Record]) -> str:
    (group,) = make.groups(make.run(records))
    return headline.who_wins(group, group.runs[0])


def test_who_wins_where_and_by_how_much(make: Factory) -> None:
    records = []
    for tokens in (1, 2, 4, 8, 16):
        records.append(make.timed(make.case(tokens), "batched", 1e6))
        records.append(make.timed(make.case(tokens), "loop", 1.5e6 if tokens < 8 else 0.5e6))
    said = sentence(make, records)
    assert "`batched` is fastest in 3 of 5 cases (T = 1 to 4), by 1.50x over the next, in the median 1.50x" in said
    assert "`loop` is fastest in 2 of 5 cases (T = 8, 16), by 2.00x over the next" in said


def test_traffic_is_named_where_it_decides(make: Factory) -> None:
    records = []
    for spread, loop in (("uniform", 2e6), ("zipf", 0.5e6)):
        records += [make.timed(make.case(8, spread), "batched"), make.timed(make.case(8, spread), "loop", loop)]
    said = sentence(make, records)
    assert "(T = 8; uniform)" in said
    assert "(T = 8; zipf:1)" in said


def test_scattered_token_counts_are_not_joined(make: Factory) -> None:
    records = []
    for tokens, loop in ((1, 2e6), (8, 0.5e6), (64, 2e6)):
        records += [make.timed(make.case(tokens), "batched"), make.timed(make.case(tokens), "loop", loop)]
    assert "`batched` is fastest in 2 of 3 cases (T = 1, 64)" in sentence(make, records)


def test_ties_are_never_single_wins(make: Factory) -> None:
    case = make.case()
    said = sentence(make, [make.timed(case, "batched"), make.timed(case, "loop")])
    assert "`batched` and `loop` tie in the only case (T = 64)" in said
    assert "fastest in" not in said


def test_different_ties_are_summed_up(make: Factory) -> None:
    records = []
    for tokens, third in ((1, 1e6), (2, 9e6)):
        records += [make.timed(make.case(tokens), name) for name in ("batched", "loop")]
        records.append(make.timed(make.case(tokens), "x", third))
    assert "there are ties in 2 of 2 cases (T = 1, 2), shared by `batched` in 2, `loop` in 2 and `x` in 1." in sentence(
        make, records
    )


def test_what_few_rounds_show_is_no_tie(make: Factory) -> None:
    """A bout of three rounds in which one took twice as long as the other, by intervals that overlap all the same."""
    records = []
    for tokens in (1, 2):
        for name, ns in (("loop", 2e6), ("grouped", 1e6)):
            records.append(make.timed(make.case(tokens), name, ns, spread=0.9, samples=3))
    said = sentence(make, records)
    assert (
        "`grouped` and `loop` cannot be told apart in 2 of 2 cases (T = 1, 2), with 3 rounds, too few for a verdict."
        in said
    )
    assert "tie" not in said
    found = make.groups(make.run(records))
    assert headline.overall(found, 1) == "Of 2 cases in 1 group: in 2 the fastest cannot be told apart."


def test_what_is_below_a_high_noise_floor_is_no_tie(make: Factory) -> None:
    records = []
    for tokens, floor in ((1, 0.005), (2, 0.2), (4, 0.72)):
        for name, ns in (("loop", 1.001e6), ("grouped", 1e6)):
            record = make.timed(make.case(tokens), name, ns)
            assert record.timing is not None
            record.timing.noise_floor = floor
            records.append(record)
    said = sentence(make, records)
    assert "`grouped` and `loop` tie in 1 of 3 cases (T = 1)" in said
    assert (
        "`grouped` and `loop` cannot be told apart in 2 of 3 cases (T = 2, 4), with a noise floor of 22 % to 105 %."
        in said
    )


def test_one_alone_has_no_margin(make: Factory) -> None:
    assert "`loop` is the only one ranked in the only case" in sentence(make, [make.timed(make.case(), "loop")])


def test_nothing_ranked_says_what_happened(make: Factory) -> None:
    case = make.case()
    said = sentence(make, [make.failed(case, "loop", "oom"), make.timed(case, "dense")])
    assert said == "nothing could be ranked in 1 case (statuses: ok, oom)."


def test_the_floor_and_the_cost_of_sparsity_are_told(make: Factory) -> None:
    (group,) = make.groups(make.machine([make.case(64), make.case(512)]))
    said = headline.who_wins(group, group.runs[0])
    assert "of the floor's speed" in said
    assert "the time of a dense layer with the same active FLOPs" in said


def test_overall_counts_every_case(make: Factory) -> None:
    one, two, three = (make.case(tokens) for tokens in (1, 2, 3))
    records = [make.timed(one, "loop", 2e6), make.timed(one, "batched"), make.failed(three, "loop", "error")]
    records += [make.timed(two, "loop"), make.timed(two, "batched")]
    found = make.groups(make.run(records))
    assert headline.overall(found, 1) == (
        "Of 3 cases in 1 group: `batched` alone is fastest in 1, 1 is a tie, in 1 nothing could be ranked."
    )


def test_agreement_names_the_nearest_miss(make: Factory) -> None:
    said = headline.agreement(frame([make.run([make.timed(make.case(), "loop")])]))
    assert said.startswith("The only ranked record agrees")
    assert "0.0021 in `y`, 0.0076 allowed" in said
    bare = Agreement(passed=True, rule="r")
    said = headline.agreement(frame([make.run([make.timed(make.case(), name, agreement=bare) for name in ("a", "b")])]))
    assert said == "All 2 ranked records agree with the float64 oracle."
    assert "nothing to say" in headline.agreement(frame([make.run([])]))


def test_failures_are_joined_by_reason_and_escaped(make: Factory) -> None:
    records = [make.failed(make.case(tokens), "loop", "error", "a|b\n<c>") for tokens in (1, 2)]
    text = headline.failures_table(frame([make.run(records)]), 1)
    assert len(text.splitlines()) == 3
    assert "2 cases, the first" in text
    assert "a\\|b &lt;c&gt;" in text
    assert headline.failures_table(frame([make.run([])]), 1) == ""


def test_what_is_unsupported_comes_last(make: Factory) -> None:
    records = [make.failed(make.case(), "loop", "unsupported"), make.failed(make.case(), "batched", "oom")]
    rows = headline.failures_table(frame([make.run(records)]), 1).splitlines()[2:]
    assert ["oom" in rows[0], "unsupported" in rows[1]] == [True, True]


def test_too_many_failures_are_counted(make: Factory) -> None:
    records = [make.failed(make.case(), f"i{n}", "error", f"reason {n}") for n in range(headline.MAX_ROWS + 3)]
    assert headline.failures_table(frame([make.run(records)]), 1).endswith("3 more rows are in `records.jsonl`.")
