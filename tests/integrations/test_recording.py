"""Recording tiny random models: exactly what their routers chose, in the prompt and behind a KV cache."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from harness.integrations import recording
from harness.integrations.listening import Listener, count_experts, expert_modules
from harness.integrations.recorder import RecordingError, RecordingJob
from harness.integrations.recorder import record as record_in_child
from harness.traces.reading import read_trace

if TYPE_CHECKING:
    from harness.traces.format import Trace

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 128,
    "num_experts_per_tok": 2,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
V3 = {"n_routed_experts": 8, "n_group": 4, "topk_group": 2, "first_k_dense_replace": 1, "n_shared_experts": 1}
PROMPTS = [[5, 17, 33, 2, 9], [7], [60, 61, 3]]
DECODED = 6


class Model(NamedTuple):
    """A model's config, which of its settings differ from the others', and the name of its router's module."""

    config: str
    settings: dict[str, Any]
    router: str
    layers: tuple[int, ...] = (0, 1)


MODELS = {
    "mixtral": Model("MixtralConfig", {"num_local_experts": 8}, "gate"),
    "qwen3": Model("Qwen3MoeConfig", {"num_experts": 8, "moe_intermediate_size": 16, "head_dim": 8}, "gate"),
    "olmoe": Model("OlmoeConfig", {"num_experts": 8}, "gate"),
    "gpt-oss": Model(
        "GptOssConfig",
        {"num_local_experts": 8, "head_dim": 8, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        "router",
    ),
    "deepseek-v3": Model(
        "DeepseekV3Config", {**V3, **LATENT, "moe_intermediate_size": 16, "num_key_value_heads": 4}, "gate", (1,)
    ),
}


@pytest.fixture(scope="module", params=MODELS)
def named(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def from_config(config: Any) -> Any:
    models: Any = transformers.AutoModelForCausalLM
    return models.from_config(config)


def save(name: str, folder: Path) -> Path:
    """Leave a small model with random weights, large enough for its routers to be decided."""
    torch.manual_seed(0)
    model = MODELS[name]
    config = getattr(transformers, model.config)(**{**SIZES, **model.settings})
    made = from_config(config)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    made.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(named: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(named, tmp_path_factory.mktemp(named))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n\n".join(" ".join(map(str, prompt)) for prompt in PROMPTS))
    return path


def job(folder: Path, prompts: Path, **changes: Any) -> RecordingJob:
    out = prompts.with_name("trace.npz")
    words = {"model": str(folder), "prompts": str(prompts), "out": str(out), "decode_tokens": DECODED, "device": "cpu"}
    return RecordingJob(**{**words, **changes})


def recorded(folder: Path, prompts: Path, **changes: Any) -> Trace:
    recording.record(job(folder, prompts, **changes))
    return read_trace(prompts.with_name("trace.npz"))


def chosen_by(model: Any, name: str, prompt: list[int]) -> dict[int, list[tuple[torch.Tensor, torch.Tensor]]]:
    """What each layer's router itself returned, call by call, over a greedy loop written here, with a KV cache."""
    found: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    hooks = []
    for layer in MODELS[name].layers:
        router = getattr(model.model.layers[layer].mlp, MODELS[name].router)
        calls = found.setdefault(layer, [])
        hooks.append(router.register_forward_hook(lambda _m, _i, out, calls=calls: calls.append((out[2], out[1]))))
    ids, cache = torch.tensor([prompt]), None
    with torch.inference_mode():
        for _ in range(DECODED + 1):
            out = model(ids, past_key_values=cache, use_cache=True)
            ids, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
    for hook in hooks:
        hook.remove()
    return found


def test_a_trace_is_what_the_routers_chose(named: str, folder: Path, prompts: Path) -> None:
    trace = recorded(folder, prompts)
    model = recording.load_model(folder, "cpu")
    assert trace.layers == list(MODELS[named].layers)
    assert (trace.info.experts, trace.info.top_k, trace.info.decoding, trace.info.template) == (8, 2, "greedy", "raw")
    for request, prompt in enumerate(PROMPTS):
        for layer, calls in chosen_by(model, named, prompt).items():
            ids, weights = (torch.cat([call[part] for call in calls]) for part in (0, 1))
            found = trace.select(layer=layer, request=request)
            assert found.ids.tolist() == ids.tolist()
            assert found.weights is not None
            assert found.weights.tolist() == weights.float().tolist()
            assert found.position.tolist() == list(range(len(prompt) + DECODED))
            assert found.phase.tolist() == [0] * len(prompt) + [1] * DECODED
    assert len(np.unique(trace.ids)) > 4, "the routers are no constant"


def test_a_model_s_own_router_logits_agree(prompts: Path, tmp_path: Path) -> None:
    folder = save("mixtral", tmp_path / "mixtral")
    trace = recorded(folder, prompts, decode_tokens=0)
    assert (trace.phases, trace.info.decoding) == (["prefill"], "none")
    model = recording.load_model(folder, "cpu")
    for request, prompt in enumerate(PROMPTS):
        with torch.inference_mode():
            logits = model(torch.tensor([prompt]), output_router_logits=True).router_logits
        for layer in trace.layers:
            expected = logits[layer].softmax(-1).topk(2, dim=-1).indices
            assert trace.select(layer=layer, request=request).ids.tolist() == expected.tolist()


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("mixtral", tmp_path_factory.mktemp("models") / "tiny-mixtral")


def test_sampling_follows_the_seed(mixtral: Path, prompts: Path) -> None:
    first, again, other = (recorded(mixtral, prompts, seed=seed) for seed in (1, 1, 2))
    assert first.digest == again.digest != other.digest
    assert (first.info.decoding, first.info.seed, first.info.model) == ("sampled", 1, "tiny-mixtral")
    prefill = [trace.select(phase="prefill").ids.tolist() for trace in (first, other)]
    assert prefill[0] == prefill[1]


def test_a_limit_of_prompts(mixtral: Path, prompts: Path) -> None:
    assert recorded(mixtral, prompts, limit=2).requests == [0, 1]


def test_decoding_ends_where_the_model_ends_it(prompts: Path, tmp_path: Path) -> None:
    """The token that ends a text enters no layer any more."""
    folder = save("mixtral", tmp_path / "mixtral")
    model = recording.load_model(folder, "cpu")
    ids = torch.tensor([PROMPTS[0]])
    second = int(model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, do_sample=False)[0, -1])
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": second}))
    assert len(recorded(folder, prompts, limit=1).select(layer=0, phase="decode")) == 1


def word_tokenizer(folder: Path, template: str = "") -> None:
    """Leave a tokenizer of whole words beside a model."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = ["[UNK]", "the", "cat", "sat", "user", ":", "assistant"]
    made = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    tokenizers: Any = transformers.PreTrainedTokenizerFast
    fast = tokenizers(tokenizer_object=made, unk_token="[UNK]")
    if template:
        fast.chat_template = template
    fast.save_pretrained(folder)


CHAT = "{% for message in messages %}{{ message.role }} : {{ message.content }} {% endfor %}assistant :"


def test_prompts_are_tokenised_and_put_through_the_template(tmp_path: Path) -> None:
    word_tokenizer(tmp_path)
    assert recording.encode(["the cat", "sat"], tmp_path, "", 64) == ([[1, 2], [3]], "raw")
    with pytest.raises(ValueError, match=r"--chat: the tokenizer in .* has no chat template"):
        recording.encode(["the"], tmp_path, "chat", 64)
    word_tokenizer(tmp_path, CHAT)
    for template in ("", "chat"):
        assert recording.encode(["the cat"], tmp_path, template, 64) == ([[4, 5, 1, 2, 6, 5]], "chat")
    assert recording.encode(["the cat"], tmp_path, "raw", 64) == ([[1, 2]], "raw")


def test_without_a_tokenizer_lines_are_token_ids(tmp_path: Path) -> None:
    assert recording.encode(["1 2  63"], tmp_path, "", 64) == ([[1, 2, 63]], "raw")
    for wrong in ("the cat", "1 64", "-1", "1.5", "9" * 30, "²"):
        with pytest.raises(ValueError, match="has no tokenizer, so a line is token ids from 0 to 63"):
            recording.encode([wrong], tmp_path, "", 64)
    with pytest.raises(ValueError, match=r"--chat: .* has no tokenizer"):
        recording.encode(["1"], tmp_path, "chat", 64)


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read"), (b"", "at least one line"), (b" \n\n", "at least one line"), (b"\xff\xfe", "UTF-8")],
)
def test_prompts_that_are_none(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        recording.read_prompts(path, 0)


def test_weights_in_pickles_and_code_of_the_model_s_own_are_refused(mixtral: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a local directory with a model's config\.json"):
        recording.check_folder(tmp_path / "mistralai/Mixtral-8x7B")
    config = json.loads((mixtral / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="there are no weights"):
        recording.check_folder(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(ValueError, match="weights in pickles are not read"):
        recording.check_folder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((mixtral / "model.safetensors").read_bytes())
    recording.check_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}))
    with pytest.raises(ValueError, match="auto_map"):
        recording.check_folder(tmp_path)
    for text in ("[]", "{", "\x00"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config\.json"):
            recording.check_folder(tmp_path)


def test_a_model_that_cannot_be_loaded(mixtral: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nobody_knows"}))
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match="transformers cannot load it") as caught:
        recording.load_model(tmp_path, "cpu")
    assert "\n" not in str(caught.value)
    (tmp_path / "config.json").write_text((mixtral / "config.json").read_text())
    with pytest.raises(ValueError, match="transformers cannot load it"):
        recording.load_model(tmp_path, "cpu")


def test_a_dense_model_has_nothing_to_record() -> None:
    sizes: dict[str, Any] = {**SIZES, "num_hidden_layers": 1}
    with pytest.raises(ValueError, match="whose experts are given each token's choice, not LlamaForCausalLM"):
        expert_modules(from_config(transformers.LlamaConfig(**sizes)))


class Experts(nn.Module):
    def __init__(self, experts: int) -> None:
        super().__init__()
        self.stacked = nn.Parameter(torch.zeros(experts, 2, 2))

    def forward(self, hidden_states: torch.Tensor, top_k_index: Any, top_k_weights: Any) -> torch.Tensor:
        return hidden_states


def call(module: nn.Module, k: int, **as_keywords: Any) -> None:
    ids = torch.arange(k).expand(3, k)
    given = {"top_k_index": ids, "top_k_weights": ids.float()}
    module(torch.zeros(3, 2), **given) if as_keywords else module(torch.zeros(3, 2), *given.values())


def test_layers_must_agree_in_experts_and_k() -> None:
    with pytest.raises(ValueError, match=r"layers of one number of experts, not of \[4, 8\]"):
        Listener(nn.ModuleList([Experts(4), Experts(8)]))
    modules = nn.ModuleList([Experts(4), Experts(4)])
    with Listener(modules) as listener:
        listener.begin(0, prompt_tokens=2)
        call(modules[0], 2)
        call(modules[0], 2, keyword=True)
        with pytest.raises(ValueError, match="layers of one top_k, not of 2 and 3"):
            call(modules[1], 3)
    call(modules[0], 2)
    assert listener.columns()["position"].tolist() == [0, 1, 2, 3, 4, 5]
    assert listener.columns()["phase"].tolist() == [0, 0, 1, 1, 1, 1]


def test_which_layer_a_module_is() -> None:
    model = nn.Module()
    model.layers = nn.ModuleList([nn.Identity(), nn.Module(), nn.Module()])
    for number in (1, 2):
        model.layers[number].experts = Experts(4)
    assert list(expert_modules(model)) == [1, 2]
    parts = [nn.Module(), nn.Module()]
    for part in parts:
        part.experts = Experts(4)
    twice = nn.ModuleDict({"encoder": nn.ModuleList(parts[:1]), "decoder": nn.ModuleList(parts[1:])})
    assert list(expert_modules(twice)) == [0, 1]
    with pytest.raises(ValueError, match="experts in stacked weights"):
        count_experts(nn.Identity())


def test_the_child_answers_for_the_parent(mixtral: Path, prompts: Path) -> None:
    """In a process of its own, offline; what does not do is one line, and a death says what was printed."""
    answer = record_in_child(job(mixtral, prompts, decode_tokens=1, limit=1))
    assert answer.digest == read_trace(prompts.with_name("trace.npz")).digest
    with pytest.raises(ValueError, match="a local directory") as caught:
        record_in_child(job(prompts.parent / "no", prompts))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"--out = .*: a file in a directory that exists"):
        record_in_child(job(mixtral, prompts, out="/nonexistent/a.npz"))


def test_a_recording_process_that_dies(mixtral: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RecordingError, match="ended with code 1: it printed nothing"):
        record_in_child(job(mixtral, prompts))


def test_the_parent_side_imports_no_torch() -> None:
    code = "import sys; import harness.integrations.recorder; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
