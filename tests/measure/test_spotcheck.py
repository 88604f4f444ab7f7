"""Which timed answer is looked at again."""

from __future__ import annotations

from collections import Counter

import torch

from harness.measure.spotcheck import SpotCheck


def run(seed: str, rounds: int, names: str = "ab", stride_of_b: int = 1) -> SpotCheck:
    check = SpotCheck(seed)
    for draw in range(rounds):
        for name in names:
            if name != "b" or draw % stride_of_b == 0:
                check.see(name, draw, {"y": torch.full((1,), float(draw))})
    return check


def test_those_who_took_part_in_the_same_rounds_keep_the_same_draw() -> None:
    kept = run("seed", 40).kept
    assert kept["a"].draw == kept["b"].draw
    assert kept["a"].outputs["y"].item() == kept["a"].draw


def test_who_sat_out_keeps_a_round_of_his_own() -> None:
    for seed in range(20):
        kept = run(str(seed), 40, stride_of_b=5).kept
        assert kept["b"].draw % 5 == 0
        assert kept["b"].lot <= kept["a"].lot


def test_every_round_is_equally_likely() -> None:
    counts = Counter(run(str(seed), 8).kept["a"].draw for seed in range(4000))
    assert set(counts) == set(range(8))
    assert all(400 < count < 600 for count in counts.values())


def test_a_bug_in_n_of_N_rounds_is_caught_n_times_in_N_and_in_all_rounds_always() -> None:  # noqa: N802 (a formula)
    caught = {share: sum(run(str(seed), 12).kept["a"].draw >= 12 - share for seed in range(2000)) for share in (3, 12)}
    assert abs(caught[3] / 2000 - 3 / 12) < 0.04
    assert caught[12] == 2000


def test_what_is_kept_is_a_copy() -> None:
    check = SpotCheck("seed")
    y = torch.ones(2, requires_grad=True) * 1
    check.see("a", 0, {"y": y})
    with torch.no_grad():
        y.zero_()
    assert check.kept["a"].outputs["y"].tolist() == [1, 1]
    assert not check.kept["a"].outputs["y"].requires_grad


def test_the_first_answer_of_the_winning_round_stays() -> None:
    """The A/A control answers for its owner: whoever comes first in the shuffled round is looked at."""
    check = SpotCheck("seed")
    check.see("a", 0, {"y": torch.zeros(1)})
    check.see("a", 0, {"y": torch.ones(1)})
    assert check.kept["a"].outputs["y"].item() == 0
