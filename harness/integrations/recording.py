"""The process that records: ``python -m harness.integrations.recording FOLDER JOB``.

Loads a model of transformers from a local directory, safetensors only and no code of the model's own, and listens to
what its expert modules are given: the ids and weights that its routers decided on.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch
import transformers

from harness.integrations.listening import Listener
from harness.integrations.recorder import ANSWER, Recorded, RecordingJob, Refused
from harness.traces.format import TraceInfo
from harness.traces.reading import MOST_BYTES
from harness.traces.writing import make_trace, write_trace

if TYPE_CHECKING:
    from harness.traces.format import Decoding, Template, Trace

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
MOST_PROMPT_BYTES = 2**26


def record(job: RecordingJob) -> Recorded:
    """Do the job.

    Raises
    ------
    ValueError
        one line, for a model or prompts that will not do.
    """
    folder = Path(job.model)
    check_folder(folder)
    lines = read_prompts(Path(job.prompts), job.limit)
    model = load_model(folder, job.device)
    prompts, template = encode(lines, folder, job.template, vocabulary=model.get_input_embeddings().num_embeddings)
    with Listener(model) as listener:
        for number, prompt in enumerate(prompts):
            listener.begin(number, prompt_tokens=len(prompt))
            generate(model, prompt, job)
            if listener.nbytes > MOST_BYTES:
                raise ValueError(f"--limit: after {number + 1} prompts the trace is over {MOST_BYTES} bytes")
    trace = _trace(job, model, listener, template)
    _write(trace, Path(job.out))
    return Recorded(trace.digest)


def check_folder(folder: Path) -> None:
    """Refuse what is no local model, brings code of its own, or has its weights in pickles.

    Raises
    ------
    ValueError
        naming the directory.
    """
    config = folder / "config.json"
    if not config.is_file():
        raise ValueError(f"MODEL_DIR = {str(folder)!r}: a local directory with a model's config.json")
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{config}: not JSON: {error}") from error
    if not isinstance(settings, dict) or "auto_map" in settings:
        raise ValueError(f"{config}: a model that transformers knows; one with code of its own (auto_map) is not run")
    if not any(folder.glob("*.safetensors")):
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        found = "weights in pickles are not read, convert them" if pickled else "there are no weights"
        raise ValueError(f"MODEL_DIR = {str(folder)!r}: weights as *.safetensors; {found}")


def read_prompts(path: Path, limit: int) -> list[str]:
    """Return the lines of a file that are not blank, the first ``limit`` of them (0: all).

    Raises
    ------
    ValueError
        when there are none, or the file is no text.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_PROMPT_BYTES + 1)
        text = content.decode("utf-8")
    except OSError as error:
        raise ValueError(f"--prompts = {str(path)!r}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"--prompts = {str(path)!r}: a UTF-8 text, one prompt a line") from error
    if len(content) > MOST_PROMPT_BYTES:
        raise ValueError(f"--prompts = {str(path)!r}: a text of at most {MOST_PROMPT_BYTES} bytes")
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"--prompts = {str(path)!r}: at least one line that is not blank")
    return lines[:limit] if limit else lines


def load_model(folder: Path, device: str) -> Any:  # noqa: ANN401 (transformers has no types)
    """Load a causal language model for inference; of its own dtype, on the GPU where there is one.

    Raises
    ------
    ValueError
        when transformers cannot, with its reason.
    """
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation="eager",  # whatever the directory asks for: an implementation can be foreign code
            dtype="auto",
        )
        return model.to(chosen).eval()
    except Exception as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"MODEL_DIR = {str(folder)!r}: transformers cannot load it: {said}") from error


def encode(lines: list[str], folder: Path, template: str, vocabulary: int) -> tuple[list[list[int]], Template]:
    """Turn lines into token ids with the directory's tokenizer; without one they are token ids already.

    Raises
    ------
    ValueError
        for a template that is not there, lines that are no token ids, or ids the model does not have.
    """
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        if template == "chat":
            raise ValueError(f"--chat: {folder} has no tokenizer, and so no chat template")
        return [_token_ids(line, folder, vocabulary) for line in lines], "raw"
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    if template == "chat" and not tokenizer.chat_template:
        raise ValueError(f"--chat: the tokenizer in {folder} has no chat template")
    if template == "chat" or (not template and tokenizer.chat_template):
        texts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": line}], tokenize=False, add_generation_prompt=True
            )
            for line in lines
        ]
        return [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts], "chat"
    return [list(tokenizer(line)["input_ids"]) for line in lines], "raw"


def _token_ids(line: str, folder: Path, vocabulary: int) -> list[int]:
    words = line.split()
    if not all(word.isascii() and word.isdigit() and len(word) < 10 and int(word) < vocabulary for word in words):
        raise ValueError(
            f"--prompts: {folder} has no tokenizer, so a line is token ids from 0 to {vocabulary - 1},"
            f" not {line[:40]!r}"
        )
    return [int(word) for word in words]


def generate(model: Any, prompt: list[int], job: RecordingJob) -> None:  # noqa: ANN401 (transformers has no types)
    """Prefill a prompt and decode after it. The last token generated never enters the model, hence one more."""
    ids = torch.tensor([prompt], device=model.device)
    sampled = job.seed is not None and job.decode_tokens > 0
    if sampled:
        torch.manual_seed(job.seed or 0)
    with torch.inference_mode():
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=job.decode_tokens + 1,
            do_sample=sampled,
            num_beams=1,
            use_cache=True,
        )


def _trace(job: RecordingJob, model: Any, listener: Listener, template: Template) -> Trace:  # noqa: ANN401
    decoding: Decoding = "none" if job.decode_tokens == 0 else "greedy" if job.seed is None else "sampled"
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    info = TraceInfo(
        model=Path(job.model).resolve().name,
        experts=listener.experts,
        top_k=listener.top_k,
        decoding=decoding,
        template=template,
        seed=job.seed if decoding == "sampled" else None,
        source=f"moebench record, {versions}, {str(model.dtype).removeprefix('torch.')} on {model.device.type}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return make_trace(info, **listener.columns())


def _write(trace: Trace, out: Path) -> None:
    try:
        write_trace(trace, out)
    except OSError as error:
        raise ValueError(f"--out = {str(out)!r}: cannot be written: {error.strerror}") from error


def main() -> None:
    """Do the job and answer in a file: what was recorded, or why not."""
    folder, job = Path(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=RecordingJob)
    try:
        answer: Recorded | Refused = record(job)
    except ValueError as error:
        answer = Refused(" ".join(str(error).split()))
    (folder / ANSWER).write_bytes(msgspec.json.encode(answer))


if __name__ == "__main__":
    main()
