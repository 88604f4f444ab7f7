"""The command ``record``: a trace of what a model's routers choose, or one imported from a public layout."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 (typer reads annotations)
from typing import TYPE_CHECKING, Annotated

import typer

from harness import terminal
from harness.cli.app import NOTHING, Json, app, print_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.traces.format import Trace

DECODED = 64
"""Tokens after each prompt where nobody says how many."""


@app.command()
def record(  # noqa: PLR0913, PLR0917 (one parameter an option)
    model_dir: Annotated[
        Path | None, typer.Argument(metavar="MODEL_DIR", help="A transformers MoE model: a local directory.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help="A prompt a line; token ids without a tokenizer.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="TRACE.npz", help="Where the trace goes.")] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", metavar="N", min=0, help="Tokens to decode after each prompt.")
    ] = DECODED,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=0, help="At most so many prompts; 0: all.")] = 0,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="S", min=0, help="Sample as the model's directory says.")
    ] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the likeliest token; the default.")] = False,
    chat: Annotated[
        bool | None, typer.Option("--chat/--raw", help="Put prompts through the chat template; where there is one.")
    ] = None,
    device: Annotated[str, typer.Option("--device", metavar="D", help="cpu or cuda; the GPU where there is one.")] = "",
    import_: Annotated[
        Path | None,
        typer.Option("--import", metavar="JSON", help="Instead: a request, or a folder of them, as in docs/traces.md."),
    ] = None,
    experts: Annotated[
        int, typer.Option("--experts", metavar="E", min=0, help="With --import: how many experts the model has.")
    ] = 0,
    name: Annotated[str, typer.Option("--name", metavar="MODEL", help="With --import: the model's name.")] = "",
    as_json: Json = False,
) -> None:
    """Record which experts a real model chooses, for `traffic = "trace:TRACE.npz?layer=3&phase=decode"`."""
    out = _new_file(out)
    if greedy and seed is not None:
        raise ValueError(f"--seed = {seed}: not together with --greedy")
    if (model_dir is None) == (import_ is None):
        raise ValueError("record: give MODEL_DIR and --prompts FILE, or --import JSON and --experts E")
    if import_ is not None:
        sampled = {"--max-new-tokens": max_new_tokens != DECODED, "--seed": seed is not None, "--greedy": greedy}
        of_a_model = {"--prompts": prompts, **sampled, "--chat or --raw": chat is not None, "--device": device}
        _refuse_idle("--import", of_a_model)
        _show(_import(import_, out, experts, name, limit), out, as_json)
        return
    _refuse_idle("MODEL_DIR", {"--experts": experts, "--name": name})
    if prompts is None:
        raise ValueError("--prompts is missing: a text file, one prompt a line")
    template = "" if chat is None else "chat" if chat else "raw"
    said = _record(str(model_dir), prompts, out, (max_new_tokens, limit, template, seed, device))
    if said:
        terminal.fail(said)
        raise typer.Exit(NOTHING)
    from harness.traces.reading import read_trace

    _show(read_trace(out), out, as_json)


def _new_file(out: Path | None) -> Path:
    """Refuse to overwrite a trace, which runs may have been planned with."""
    if out is None:
        raise ValueError("--out is missing: the file the trace goes to, such as mine.npz")
    if out.exists():
        raise ValueError(f"--out = {str(out)!r}: exists already; name a new file, or take that one away")
    return out


def _refuse_idle(beside: str, given: Mapping[str, object]) -> None:
    """Refuse options that would do nothing beside what was chosen."""
    if idle := [option for option, value in given.items() if value]:
        raise ValueError(f"{beside} takes no {', '.join(idle)}")


def _record(model: str, prompts: Path, out: Path, words: tuple[int, int, str, int | None, str]) -> str:
    """Record; return what a recording process that died said last, nothing when all went well."""
    from harness.integrations.recorder import RecordingError, RecordingJob, record

    tokens, limit, template, seed, device = words
    job = RecordingJob(
        model=model,
        prompts=str(prompts),
        out=str(out),
        decode_tokens=tokens,
        limit=limit,
        template=template,  # type: ignore[arg-type]
        seed=seed,
        device=device,
    )
    try:
        with terminal.err.status("running the model"):
            record(job)
    except RecordingError as error:
        return str(error)
    return ""


def _import(path: Path, out: Path, experts: int, name: str, limit: int) -> Trace:
    from datetime import UTC, datetime

    from harness.traces.format import TraceInfo
    from harness.traces.importing import import_requests, request_files
    from harness.traces.writing import write_trace

    if experts == 0:
        raise ValueError("--experts is missing: how many experts a layer of the model has; the files do not say")
    files = request_files(path, limit)
    source = f"imported from {len(files)} files of {path.resolve().parent.name}/{path.name}"
    created = datetime.now(UTC).isoformat(timespec="seconds")
    info = TraceInfo(model=name or "unknown", experts=experts, top_k=1, source=source, created=created)
    trace = import_requests(files, info)
    try:
        write_trace(trace, out)
    except OSError as error:
        raise ValueError(f"--out = {str(out)!r}: cannot be written: {error.strerror}") from error
    return trace


def _show(trace: Trace, out: Path, as_json: bool) -> None:
    """Say what there is now."""
    info = trace.info
    facts: dict[str, object] = {
        "file": str(out),
        "model": info.model,
        "experts": info.experts,
        "top_k": info.top_k,
        "layers": trace.layers,
        "requests": len(trace.requests),
        "rows": {phase: len(trace.select(layer=trace.layers[0], phase=phase)) for phase in trace.phases},
        "decoding": info.decoding,
        "template": info.template,
        "digest": trace.digest,
    }
    if as_json:
        print_json(facts)
        return
    rows = ", ".join(f"{count} {phase}" for phase, count in facts["rows"].items())  # type: ignore[attr-defined]
    terminal.out.print(
        f"{out}: {info.model}, E{info.experts} k{info.top_k}, layers {', '.join(map(str, trace.layers))};"
        f" {len(trace.requests)} requests, {rows} tokens; {info.decoding}, {info.template}; digest {trace.digest}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
