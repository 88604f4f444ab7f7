"""Reading config.json: released models give their presets, transformers' own models their number of weights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.cases.huggingface import SEQUENCE, known_model_types, shape_from_config
from harness.cases.presets import preset
from harness.cases.shape import Router, Shape

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Write = Callable[[object], Path]

QWEN: dict[str, Any] = {"hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 5632}
DEEPSEEK: dict[str, Any] = {
    "hidden_act": "silu",
    "hidden_size": 7168,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "n_shared_experts": 1,
    "n_group": 8,
    "topk_group": 4,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
}
MIXTRAL: dict[str, Any] = {
    "model_type": "mixtral",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
GPT_OSS: dict[str, Any] = {
    "model_type": "gpt_oss",
    "hidden_act": "silu",
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "experts_per_token": 4,
    "swiglu_limit": 7.0,
}
RELEASED: dict[str, dict[str, Any]] = {
    "mixtral-8x7b": MIXTRAL,
    "qwen1.5-moe-a2.7b": {
        **QWEN,
        "model_type": "qwen2_moe",
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "norm_topk_prob": False,
    },
    "qwen3-30b-a3b": {
        **QWEN,
        "model_type": "qwen3_moe",
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
    },
    "qwen3-next-80b-a3b": {
        **QWEN,
        "model_type": "qwen3_next",
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
        "num_experts": 512,
        "num_experts_per_tok": 10,
        "norm_topk_prob": True,
    },
    "qwen3.5-35b-a3b": {
        "model_type": "qwen3_5_moe",
        "text_config": {
            **QWEN,
            "model_type": "qwen3_5_moe_text",
            "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512,
            "num_experts": 256,
            "num_experts_per_tok": 8,
        },
    },
    "olmoe-1b-7b": {
        "model_type": "olmoe",
        "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 1024,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "norm_topk_prob": False,
    },
    "deepseek-v2": {
        **DEEPSEEK,
        "model_type": "deepseek_v2",
        "hidden_size": 5120,
        "moe_intermediate_size": 1536,
        "n_routed_experts": 160,
        "num_experts_per_tok": 6,
        "n_shared_experts": 2,
        "topk_group": 3,
        "norm_topk_prob": False,
        "routed_scaling_factor": 16.0,
        "scoring_func": "softmax",
        "topk_method": "group_limited_greedy",
    },
    "deepseek-v3": {**DEEPSEEK, "model_type": "deepseek_v3"},
    "kimi-k2": {
        "model_type": "kimi_k25",
        "vision_config": {"hidden_size": 1152},
        "text_config": {
            **DEEPSEEK,
            "model_type": "kimi_k2",
            "n_routed_experts": 384,
            "n_group": 1,
            "topk_group": 1,
            "routed_scaling_factor": 2.827,
        },
    },
    "gpt-oss-20b": GPT_OSS,
    "llama-4-scout": {
        "model_type": "llama4",
        "text_config": {
            "model_type": "llama4_text",
            "hidden_act": "silu",
            "hidden_size": 5120,
            "intermediate_size": 8192,
            "intermediate_size_mlp": 16384,
            "num_local_experts": 16,
            "num_experts_per_tok": 1,
        },
    },
    "dbrx": {
        "model_type": "dbrx",
        "d_model": 6144,
        "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4, "moe_jitter_eps": 0},
    },
    "phi-3.5-moe": {**MIXTRAL, "model_type": "phimoe", "intermediate_size": 6400, "num_local_experts": 16},
    "switch-base-8": {
        "model_type": "switch_transformers",
        "d_model": 768,
        "d_ff": 3072,
        "num_experts": 8,
        "expert_capacity": 64,
        "dense_act_fn": "relu",
    },
    "glm-4.5-air": {
        **DEEPSEEK,
        "model_type": "glm4_moe",
        "hidden_size": 4096,
        "moe_intermediate_size": 1408,
        "n_routed_experts": 128,
        "n_group": 1,
        "topk_group": 1,
        "routed_scaling_factor": 1.0,
    },
    "minimax-m2": {
        **MIXTRAL,
        "model_type": "minimax_m2",
        "hidden_size": 3072,
        "intermediate_size": 1536,
        "num_local_experts": 256,
        "num_experts_per_tok": 8,
    },
}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(config: object) -> Path:
        folder = tmp_path / "some-model"
        folder.mkdir(exist_ok=True)
        path = folder / "config.json"
        path.write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")
        return path

    return to_file


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_config_gives_the_preset(name: str, write: Write) -> None:
    shape = shape_from_config(write(RELEASED[name]))
    assert shape.name == "some-model"
    assert msgspec.structs.replace(shape, name=name) == preset(name)


def test_a_file_of_another_name_names_the_shape(tmp_path: Path) -> None:
    path = tmp_path / "my-mixtral.json"
    path.write_text(json.dumps(MIXTRAL), encoding="utf-8")
    assert shape_from_config(str(path)).name == "my-mixtral"


def test_older_and_newer_spellings_mean_the_same(write: Write) -> None:
    renamed = {**MIXTRAL, "num_experts": MIXTRAL["num_local_experts"]}
    del renamed["num_local_experts"]
    assert shape_from_config(write(renamed)) == shape_from_config(write(MIXTRAL))


def test_null_means_none_where_the_architecture_says_so(write: Write) -> None:
    config = {**DEEPSEEK, "model_type": "deepseek_v3", "n_group": None, "topk_group": None, "n_shared_experts": None}
    shape = shape_from_config(write(config))
    assert (shape.router.groups, shape.router.top_groups) == (1, 1)
    assert (shape.shared_experts, shape.shared_hidden, shape.shared_gated) == (0, 0, False)


def test_greedy_deepseek_ignores_its_groups(write: Write) -> None:
    config = {**RELEASED["deepseek-v2"], "topk_method": "greedy"}
    assert shape_from_config(write(config)).router.groups == 1


def test_a_scoring_function_in_the_config_counts(write: Write) -> None:
    moonlight = {**DEEPSEEK, "model_type": "deepseek_v3", "scoring_func": "softmax"}
    assert shape_from_config(write(moonlight)).router.kind == "softmax"


def test_switch_capacity_is_the_configs_at_one_sequence(write: Write) -> None:
    config = {**RELEASED["switch-base-8"], "num_experts": 16, "expert_capacity": 48}
    shape = shape_from_config(write(config))
    assert shape.router.capacity_factor * SEQUENCE * shape.top_k / shape.experts == 48


def test_dbrx_activation_may_be_given_or_left_out(write: Write) -> None:
    config = json.loads(json.dumps(RELEASED["dbrx"]))
    config["ffn_config"]["ffn_act_fn"] = {"name": "gelu"}
    assert shape_from_config(write(config)).activation == "gelu"


def test_unknown_model_type_is_read_by_common_keys_and_says_so(write: Write) -> None:
    config = {**DEEPSEEK, "model_type": "newcomer", "n_group": 1, "topk_group": 1}
    shape = shape_from_config(write(config))
    assert shape == Shape(
        hidden=7168,
        expert_hidden=2048,
        experts=256,
        top_k=8,
        shared_experts=1,
        shared_hidden=2048,
        router=Router(kind="sigmoid", renormalise=True, scale=2.5),
        name="some-model (generic reading)",
    )
    plain = {**MIXTRAL, "model_type": "newcomer"}
    assert shape_from_config(write(plain)).router == Router(kind="softmax")


def without(config: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in config.items() if k != key}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "not JSON: "),
        ("", "not JSON: "),
        ("[1]", "config = 'list': a JSON object"),
        ("{}", "model_type = None: a text"),
        ({**MIXTRAL, "model_type": 5}, "model_type = 5: a text"),
        (
            {"model_type": "llama", "hidden_size": 8},
            "model_type = 'llama': a Mixture of Experts, with num_local_experts",
        ),
        ({**MIXTRAL, "num_local_experts": 1}, "model_type = 'mixtral': a Mixture of Experts"),
        ({**MIXTRAL, "num_local_experts": None}, "model_type = 'mixtral': a Mixture of Experts"),
        ({**MIXTRAL, "num_local_experts": "8"}, "num_local_experts = '8': a whole number of at least 1"),
        ({**MIXTRAL, "num_experts_per_tok": True}, "num_experts_per_tok = True: a whole number"),
        ({**MIXTRAL, "num_experts_per_tok": [2]}, "num_experts_per_tok = [2]: a whole number"),
        ({**MIXTRAL, "num_experts_per_tok": 9}, "top_k = 9: at most experts = 8"),
        ({**MIXTRAL, "hidden_size": -1}, "hidden_size = -1: a whole number of at least 1"),
        ({**MIXTRAL, "hidden_act": "relu2"}, "hidden_act = 'relu2': one of silu, swish, gelu, relu"),
        ({**MIXTRAL, "hidden_act": ["silu"]}, "hidden_act = ['silu']: one of"),
        (without(MIXTRAL, "hidden_act"), "hidden_act or dense_act_fn or feed_forward_proj or ffn_act_fn is missing"),
        (without(MIXTRAL, "hidden_size"), "d_model or hidden_size is missing: hidden is needed"),
        (without(MIXTRAL, "intermediate_size"), "intermediate_size is missing: this model_type needs it"),
        (without(RELEASED["olmoe-1b-7b"], "norm_topk_prob"), "norm_topk_prob or moe_renormalize is missing"),
        ({**RELEASED["olmoe-1b-7b"], "norm_topk_prob": 1}, "norm_topk_prob = 1: true or false"),
        (without(RELEASED["deepseek-v3"], "routed_scaling_factor"), "routed_scaling_factor or route_scale is missing"),
        ({**RELEASED["deepseek-v3"], "routed_scaling_factor": "2"}, "routed_scaling_factor = '2': a number above 0"),
        ({**RELEASED["deepseek-v3"], "n_group": 7}, "groups = 7: a divisor of experts = 256"),
        ({**RELEASED["deepseek-v3"], "scoring_func": "tanh"}, "scoring_func = 'tanh': softmax or sigmoid"),
        (without(RELEASED["dbrx"], "ffn_config"), "ffn_config is missing"),
        ({**RELEASED["dbrx"], "ffn_config": []}, "ffn_config = []: an object"),
        ({**GPT_OSS, "swiglu_limit": 10.0}, "swiglu_limit = 10.0: 7, the only one moebench computes"),
        (without(RELEASED["switch-base-8"], "expert_capacity"), "expert_capacity is missing"),
        ({"model_type": "newcomer", "num_experts": 8, "hidden_size": 8}, "intermediate_size is missing"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(config: object, message: str, write: Write) -> None:
    path = write(config)
    with pytest.raises(ValueError, match=r"config\.json: ") as caught:
        shape_from_config(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_a_model_s_directory_stands_for_its_config(write: Write) -> None:
    path = write(RELEASED["dbrx"])
    assert path.name == "config.json"
    assert shape_from_config(path.parent) == shape_from_config(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing\.json: cannot be read: No such file"):
        shape_from_config(tmp_path / "missing.json")
    with pytest.raises(ValueError, match=r"config\.json: cannot be read: No such file"):
        shape_from_config(tmp_path)
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(ValueError, match=r"deep\.json: not JSON: maximum recursion depth"):
        shape_from_config(tmp_path / "deep.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not JSON"):
        shape_from_config(tmp_path / "binary.json")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@settings(deadline=None)
@given(st.sampled_from(sorted(RELEASED)), st.data())
def test_any_nonsense_value_is_a_shape_or_a_one_line_error(name: str, data: st.DataObject) -> None:
    import tempfile
    from pathlib import Path

    config = RELEASED[name]
    broken = {**config, data.draw(st.sampled_from(sorted(config))): data.draw(json_values)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(broken), encoding="utf-8")
        said = ""
        try:
            shape_from_config(path)
        except ValueError as error:
            said = str(error)
    assert "\n" not in said


# transformers' defaults leave these out, or its model cannot be built alone from them.
NEEDS: dict[str, dict[str, Any]] = {
    "deepseek_v2": {"num_experts_per_tok": 6},
    "dots1": {"n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "lfm2_moe": {"num_hidden_layers": 4, "layer_types": ["conv"] * 4},
}
NOT_BUILT = {"dbrx", "kimi_k2"}


@pytest.mark.parametrize("model_type", [name for name in known_model_types() if name not in NOT_BUILT])
def test_a_model_of_transformers_has_as_many_weights(model_type: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    if model_type not in transformers.CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {model_type}")
    config = transformers.CONFIG_MAPPING[model_type](**NEEDS.get(model_type, {}))
    path = tmp_path / "config.json"
    path.write_text(config.to_json_string(use_diff=False), encoding="utf-8")
    shape = shape_from_config(path)
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config.get_text_config())
    experts = next(name for name, _ in model.named_modules() if name.split(".")[-1] == "experts")
    block = model.get_submodule(experts.rpartition(".")[0])
    # granitemoehybrid keeps its shared experts beside the block.
    aside = shape.shared_params if model_type == "granitemoehybrid" else 0
    # A router's own bias and a selection bias that is a parameter: E weights that total_params does not count.
    extra = sum(p.numel() for p in block.parameters()) + aside - shape.total_params
    assert extra in {0, shape.experts}
