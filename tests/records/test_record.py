"""Records are decoded strictly, and every one that is not in order says why."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.records.record import FAILURES, SCHEMA, STATUSES, Agreement, Record, Work, plain_text
from harness.records.unmeasured import storable


def decoded(record: Record, **changes: Any) -> Record:
    """The record after a trip through JSON in which some fields were replaced by hand."""
    return msgspec.json.decode(json.dumps(json.loads(msgspec.json.encode(record)) | changes), type=Record)


def test_round_trip(make: Any) -> None:
    record = make.record(timing=make.timing([1.0, 2.5]), agreement=Agreement(passed=True, rule="close"))
    assert decoded(record) == record


def test_an_unknown_field_is_refused(make: Any) -> None:
    with pytest.raises(msgspec.ValidationError, match="tokens_per_joule"):
        decoded(make.record(), tokens_per_joule=3.0)


def test_an_unknown_field_inside_is_refused(make: Any) -> None:
    with pytest.raises(msgspec.ValidationError, match="guess"):
        decoded(make.record(), work=json.loads(msgspec.json.encode(make.work())) | {"guess": 1})


def test_another_schema_is_refused(make: Any) -> None:
    with pytest.raises(msgspec.ValidationError, match=f"schema = {SCHEMA + 1}: .* reads schema {SCHEMA}"):
        decoded(make.record(), schema=SCHEMA + 1)


def test_an_unknown_status_is_refused(make: Any) -> None:
    with pytest.raises(msgspec.ValidationError, match="status"):
        decoded(make.record(), status="fine", reason="because")


def test_a_wrong_case_is_refused(make: Any) -> None:
    case = json.loads(msgspec.json.encode(make.case()))
    with pytest.raises(msgspec.ValidationError, match="top_k = 9: at most experts = 4"):
        decoded(make.record(), case=case | {"shape": case["shape"] | {"top_k": 9}})


@pytest.mark.parametrize("status", [status for status in STATUSES if status != "ok"])
def test_every_status_but_ok_needs_a_reason(make: Any, status: str) -> None:
    with pytest.raises(ValueError, match=f"'{status}' needs a reason"):
        make.record(status=status)
    assert make.record(status=status, reason="it did").status == status


def test_what_disagrees_is_never_timed(make: Any) -> None:
    with pytest.raises(ValueError, match="never timed"):
        make.record(status="disagrees", reason="y: too far", timing=make.timing([1.0]))


def test_unsupported_is_an_answer_and_no_failure() -> None:
    assert {*FAILURES, "ok", "unsupported"} == set(STATUSES)


def test_the_key_is_case_and_name(make: Any) -> None:
    record = make.record("einsum")
    assert record.key == (record.case.case_id, "einsum")


@given(st.text(st.characters(exclude_categories=[])))
def test_foreign_text_always_fits_into_a_file(make: Any, text: str) -> None:
    """Half a surrogate pair, as str(error) may hold one, has no UTF-8."""
    record = make.record(status="error", reason=f"said {text}", log_tail=text)
    assert decoded(record) == record


def test_ordinary_text_stays_as_it_is() -> None:
    assert plain_text("größer als 4 \n\t✓") == "größer als 4 \n\t✓"
    assert plain_text("\udc80") == "\\udc80"
    assert plain_text(7) == "7"


def test_a_reason_that_is_no_text_becomes_one(make: Any) -> None:
    """``unsupported`` of a third party may answer True."""
    assert make.record(status="unsupported", reason=True).reason == "True"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_figure_json_has_no_word_for_costs_the_record_and_nothing_else(make: Any, value: float) -> None:
    work = Work(distinct_experts=value, useful_flops=1.0, min_bytes=1.0)
    kept = storable(make.record(work=work, bout="b", log_tail="its last word"))
    assert kept.status == "error"
    assert "'ok' record cannot be written down" in kept.reason
    assert "work.distinct_experts" in kept.reason
    assert (kept.bout, kept.log_tail) == ("b", "its last word")
    assert decoded(kept) == kept


def test_a_wrong_type_costs_the_record_and_nothing_else(make: Any) -> None:
    assert storable(make.record(bout=b"bytes are written as text")).status == "ok"
    assert storable(make.record(bout=3)).status == "error"


def test_a_sound_record_is_kept_as_it_is(make: Any) -> None:
    record = make.record(timing=make.timing([1.0]))
    assert storable(record) is record
