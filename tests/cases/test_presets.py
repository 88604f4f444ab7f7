"""Presets: every row loads, and the figures people will check first are right."""

from __future__ import annotations

import pytest

from harness.cases.presets import preset, presets
from harness.cases.shape import Router, Shape

BILLION = 1e9


def test_every_model_is_there_and_named_after_itself() -> None:
    assert len(presets()) >= 29
    for name, row in presets().items():
        assert row.shape.name == name
        assert name == name.lower()
        assert " " not in name
        assert row.source


def test_a_row_holds_all_fields_of_a_hard_layer() -> None:
    assert preset("deepseek-v3") == Shape(
        hidden=7168,
        expert_hidden=2048,
        experts=256,
        top_k=8,
        shared_experts=1,
        shared_hidden=2048,
        router=Router(kind="sigmoid", renormalise=True, groups=8, top_groups=4, scale=2.5, selection_bias=True),
        name="deepseek-v3",
    )


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("mixtral-8x7b", (4096, 14336, 8, 2)),
        ("mixtral-8x22b", (6144, 16384, 8, 2)),
        ("qwen1.5-moe-a2.7b", (2048, 1408, 60, 4)),
        ("qwen3-30b-a3b", (2048, 768, 128, 8)),
        ("qwen3-235b-a22b", (4096, 1536, 128, 8)),
        ("qwen3-next-80b-a3b", (2048, 512, 512, 10)),
        ("qwen3.5-35b-a3b", (2048, 512, 256, 8)),
        ("qwen3.5-122b-a10b", (3072, 1024, 256, 8)),
        ("qwen3.5-397b-a17b", (4096, 1024, 512, 10)),
        ("deepseek-v2-lite", (2048, 1408, 64, 6)),
        ("deepseek-v2", (5120, 1536, 160, 6)),
        ("deepseek-v3", (7168, 2048, 256, 8)),
        ("kimi-k2", (7168, 2048, 384, 8)),
        ("moonlight-16b", (2048, 1408, 64, 6)),
        ("gpt-oss-20b", (2880, 2880, 32, 4)),
        ("gpt-oss-120b", (2880, 2880, 128, 4)),
        ("olmoe-1b-7b", (2048, 1024, 64, 8)),
        ("llama-4-scout", (5120, 8192, 16, 1)),
        ("llama-4-maverick", (5120, 8192, 128, 1)),
        ("dbrx", (6144, 10752, 16, 4)),
        ("phi-3.5-moe", (4096, 6400, 16, 2)),
        ("switch-base-8", (768, 3072, 8, 1)),
        ("glm-4.5-air", (4096, 1408, 128, 8)),
        ("glm-4.5", (5120, 1536, 160, 8)),
        ("minimax-m2", (3072, 1536, 256, 8)),
        ("minimax-text-01", (6144, 9216, 32, 2)),
        ("v-moe-b-32", (768, 3072, 32, 2)),
        ("bench-sonic-moe", (4096, 1024, 128, 8)),
        ("bench-triton-gpt-oss-x2", (5760, 2880, 128, 4)),
    ],
)
def test_sizes(name: str, sizes: tuple[int, int, int, int]) -> None:
    shape = preset(name)
    assert (shape.hidden, shape.expert_hidden, shape.experts, shape.top_k) == sizes


@pytest.mark.parametrize(
    ("name", "layers", "billions"),
    [("mixtral-8x7b", 32, 46.7), ("olmoe-1b-7b", 16, 6.9), ("qwen3-30b-a3b", 48, 30.5), ("qwen3-235b-a22b", 94, 235)],
)
def test_layers_add_up_to_most_of_the_named_model(name: str, layers: int, billions: float) -> None:
    share = preset(name).total_params * layers / (billions * BILLION)
    assert 0.9 < share < 1.0, "experts are nearly all of such a model, attention and embeddings the rest"


def test_plain_experts_have_no_gate_and_gpt_oss_has_biases() -> None:
    assert not preset("switch-base-8").gated
    assert preset("switch-base-8").activation == "relu"
    gpt_oss = preset("gpt-oss-120b")
    assert gpt_oss.bias
    assert gpt_oss.router.kind == "topk_softmax"
    assert gpt_oss.activation == "clamped_swiglu"


def test_what_is_remembered_is_not_called_verified() -> None:
    rows = presets()
    assert not rows["v-moe-b-32"].verified
    assert not rows["switch-base-8"].verified
    assert rows["mixtral-8x7b"].verified


def test_approximations_are_noted() -> None:
    for name in ("llama-4-scout", "phi-3.5-moe", "switch-base-8"):
        assert presets()[name].note, name


def test_changing_the_returned_dict_changes_nothing() -> None:
    presets().clear()
    assert presets()


def test_unknown_preset_names_close_ones() -> None:
    with pytest.raises(ValueError, match=r"^preset = 'olmoe-1b': did you mean 'olmoe-1b-7b'"):
        preset("olmoe-1b")
    with pytest.raises(ValueError, match=r"one of mixtral-8x7b, .*`moebench list presets`"):
        preset("zzz")
