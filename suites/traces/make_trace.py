"""Make ``suites/traces/pydoc.npz``: what a small trained router chooses, with nothing but Python and transformers.

``python -m suites.traces.make_trace --out FILE`` trains a byte-level OLMoE of three layers (E 64, k 8, as the released
model's) on the language reference that ships with Python (``pydoc_data.topics``), with the auxiliary loss that OLMoE is
trained with. Then ``moebench record``'s recorder runs it on text it was not trained on: 16 prompts of 128 bytes, 64
bytes sampled after each. A few minutes on one core. It stands for a trained router, not for a large model's: so small a
model on so narrow a text need not use its experts as a real one does.

The same Python, torch and transformers on the same kind of CPU give the same trace; other versions give a similar one.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import platform
import tempfile
from pathlib import Path
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import torch
import transformers

from harness.integrations.recorder import RecordingJob, record
from harness.traces.reading import read_trace
from harness.traces.writing import make_trace, write_trace

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from harness.traces.format import Trace

NAME = "pydoc"
HELD_OUT = 0.1
"""Share of the text, its end, that is not trained on."""
SEED = 0
WEIGHT_BITS = 7
"""Bits kept of each weight's mantissa, as in bf16: the file is half as large."""


class Effort(NamedTuple):
    """How long to train, and what to record."""

    steps: int = 2000
    batch: int = 8
    context: int = 128
    prompts: int = 16
    prompt_tokens: int = 128
    decode_tokens: int = 64


def corpus() -> bytes:
    """Return the topics of Python's language reference, in the order of their names."""
    return "\n\n".join(topics[name] for name in sorted(topics)).encode()


def tiny_olmoe(layers: int = 3) -> Any:  # noqa: ANN401 (transformers has no types)
    """Make an untrained byte-level OLMoE with the released model's E and k, and everything else small."""
    torch.manual_seed(SEED)
    config = transformers.OlmoeConfig(
        vocab_size=256,
        hidden_size=128,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        num_experts=64,
        num_experts_per_tok=8,
        max_position_embeddings=512,
        output_router_logits=True,
        router_aux_loss_coef=0.01,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = transformers.OlmoeForCausalLM(config)
    model.set_experts_implementation("grouped_mm")
    return model


def train(model: Any, text: Tensor, effort: Effort) -> list[float]:  # noqa: ANN401 (transformers has no types)
    """Train on random windows of the text (N,) of bytes; return the loss of each step, in nats a byte.

    AdamW, the rate rising over a twentieth of the steps to 3e-3 and falling to nothing as a cosine.
    """
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, effort.steps))
    generator = torch.Generator().manual_seed(SEED)
    model.train()
    losses = []
    for step in range(effort.steps):
        starts = torch.randint(len(text) - effort.context, (effort.batch,), generator=generator)
        windows = torch.stack([text[start : start + effort.context] for start in starts.tolist()]).long()
        told = model(input_ids=windows, labels=windows)
        told.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        balance = told.aux_loss.item()
        losses.append(told.loss.item() - model.config.router_aux_loss_coef * balance)
        if step % 50 == 0 or step == effort.steps - 1:
            print(f"step {step}: loss {losses[-1]:.3f}, auxiliary {balance:.3f}", flush=True)  # noqa: T201 (a script)
    return losses


def _rate(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def held_out_prompts(text: bytes, effort: Effort) -> list[bytes]:
    """Cut prompts from the text, evenly spaced."""
    starts = np.linspace(0, len(text) - effort.prompt_tokens, effort.prompts).astype(int)
    return [text[start : start + effort.prompt_tokens] for start in starts.tolist()]


def recorded(model: Any, prompts: list[bytes], effort: Effort) -> Trace:  # noqa: ANN401 (transformers has no types)
    """Save the model, and have the recorder run it on the prompts, sampling; without a tokenizer it takes byte ids."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / f"olmoe-bytes-{NAME}"
        model.generation_config.do_sample = True
        model.save_pretrained(folder)
        lines = Path(name) / "prompts.txt"
        lines.write_text("\n".join(" ".join(map(str, prompt)) for prompt in prompts))
        job = RecordingJob(
            model=str(folder),
            prompts=str(lines),
            out=str(Path(name) / "trace.npz"),
            decode_tokens=effort.decode_tokens,
            seed=SEED,
            device="cpu",
        )
        record(job)
        return read_trace(job.out)


def rounded(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Keep the leading bits of each mantissa, rounded to the nearest."""
    mantissa, exponent = np.frexp(weights)
    scale = 2.0 ** (WEIGHT_BITS + 1)
    kept: NDArray[np.float32] = np.ldexp(np.round(mantissa * scale) / scale, exponent).astype(np.float32)
    return kept


def main() -> None:
    """Train, record, write."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name(f"{NAME}.npz"))
    parser.add_argument("--steps", type=int, default=Effort().steps)
    words = parser.parse_args()
    made = make(Effort(steps=words.steps))
    write_trace(made, words.out)
    print(f"{words.out}: {len(made)} rows, {words.out.stat().st_size} bytes, digest {made.digest}")  # noqa: T201 (a script)


def make(effort: Effort) -> Trace:
    """Train a model, record it, and say in the trace what it was made from."""
    text = corpus()
    end = int((1 - HELD_OUT) * len(text))
    model = tiny_olmoe()
    losses = train(model, torch.frombuffer(bytearray(text[:end]), dtype=torch.uint8), effort)
    trace = recorded(model, held_out_prompts(text[end:], effort), effort)
    digest = hashlib.sha256(text).hexdigest()[:12]
    python = f"Python {platform.python_version()} (sha256 {digest})"
    source = (
        f"suites/traces/make_trace.py: byte-level OLMoE of {len(trace.layers)} layers, {effort.steps} steps of"
        f" {effort.batch} x {effort.context} on pydoc_data.topics, {python},"
        f" auxiliary loss {model.config.router_aux_loss_coef}, seed {SEED}, to {np.mean(losses[-50:]):.3f} nats a byte;"
        f" {trace.info.source}; weights rounded to {WEIGHT_BITS} bits"
    )
    info = msgspec.structs.replace(trace.info, source=source)
    columns = trace.columns()
    return make_trace(info, **columns | {"weights": rounded(columns["weights"])})


if __name__ == "__main__":
    main()
