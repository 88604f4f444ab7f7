"""What a trace holds: one row a token and layer, sorted by layer, request and position."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

PHASES = ("prefill", "decode")
"""A row's ``phase`` is the place in this list."""
DIGEST_CHARACTERS = 16

Decoding = Literal["greedy", "sampled", "none", "unknown"]
Template = Literal["chat", "raw", "unknown"]


class Column(NamedTuple):
    """An array of the file: its type, its dimensions, and whether a trace may lack it."""

    dtype: str
    dimensions: int
    optional: bool = False


COLUMNS = {
    "ids": Column("<i4", 2),
    "weights": Column("<f4", 2, optional=True),
    "layer": Column("<i4", 1),
    "request": Column("<i4", 1),
    "position": Column("<i4", 1),
    "phase": Column("|u1", 1),
}
"""The arrays of a trace of N rows. ``ids`` and ``weights`` are (N, k), the others (N,)."""


class TraceInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a trace comes from. ``experts`` and ``top_k`` are E and k, the same in all its layers.

    ``decoding`` says how the tokens of phase ``decode`` were chosen (``none``: there are no such tokens), ``template``
    whether prompts went through the model's chat template, ``source`` what was run or imported, ``created`` when (UTC).
    """

    model: str
    experts: int
    top_k: int
    decoding: Decoding = "unknown"
    template: Template = "unknown"
    seed: int | None = None
    source: str = ""
    created: str = ""
    format: Literal["moebench-trace"] = "moebench-trace"
    version: Literal[1] = 1


@dataclass(frozen=True, eq=False)
class Trace:
    """Rows of a trace: all of a file, or those that ``select`` chose.

    ``ids`` (N, k) int32, in the order the model gave; ``weights`` (N, k) float32 or None where they are not known;
    ``layer``, ``request``, ``position`` (N,) int32: the model's layer, the number of the prompt, and the token's place
    in it, from 0; ``phase`` (N,) uint8, see ``PHASES``.
    """

    info: TraceInfo
    ids: NDArray[np.int32]
    weights: NDArray[np.float32] | None
    layer: NDArray[np.int32]
    request: NDArray[np.int32]
    position: NDArray[np.int32]
    phase: NDArray[np.uint8]

    def __len__(self) -> int:
        """Rows."""
        return len(self.ids)

    @property
    def layers(self) -> list[int]:
        """The model's layers that the rows are of, ascending."""
        return [int(layer) for layer in np.unique(self.layer)]

    @property
    def requests(self) -> list[int]:
        """Numbers of the prompts that the rows are of, ascending."""
        return [int(request) for request in np.unique(self.request)]

    @property
    def phases(self) -> list[str]:
        """Names of the phases that the rows are of."""
        return [PHASES[phase] for phase in np.unique(self.phase)]

    def columns(self) -> dict[str, NDArray[Any]]:
        """Every array by its name; ``weights`` left out when they are not known."""
        arrays = {name: getattr(self, name) for name in COLUMNS}
        return {name: array for name, array in arrays.items() if array is not None}

    @cached_property
    def digest(self) -> str:
        """Hash of the rows, E and k: equal for the same routing, whatever the file and the model are called."""
        content = hashlib.sha256(f"{self.info.experts} {self.info.top_k}".encode())
        for name, array in self.columns().items():
            content.update(f" {name} {array.shape} ".encode())
            content.update(np.ascontiguousarray(array).astype(COLUMNS[name].dtype, copy=False).tobytes())
        return content.hexdigest()[:DIGEST_CHARACTERS]

    def select(
        self,
        *,
        layer: int | None = None,
        phase: str | None = None,
        request: int | None = None,
        start: int = 0,
        tokens: int | None = None,
    ) -> Trace:
        """Choose rows: of a layer, a phase, a request; of those, ``tokens`` rows (None: all) from row ``start`` on.

        The order stays: by layer, request and position. What is not there is an empty trace, not an error.

        Raises
        ------
        ValueError
            for a phase that is none, or a negative ``start`` or ``tokens``.
        """
        if phase is not None and phase not in PHASES:
            raise ValueError(f"phase = {phase!r}: one of {', '.join(PHASES)}")
        if start < 0 or (tokens is not None and tokens < 0):
            raise ValueError(f"start = {start}, tokens = {tokens}: whole numbers of at least 0")
        wanted = np.ones(len(self), dtype=bool)
        for column, value in ((self.layer, layer), (self.request, request)):
            wanted &= True if value is None else column == value
        if phase is not None:
            wanted &= self.phase == PHASES.index(phase)
        return self.take(np.flatnonzero(wanted)[start : None if tokens is None else start + tokens])

    def take(self, rows: NDArray[np.intp]) -> Trace:
        """Return these rows in this order."""
        weights = None if self.weights is None else self.weights[rows]
        return Trace(
            info=self.info,
            ids=self.ids[rows],
            weights=weights,
            layer=self.layer[rows],
            request=self.request[rows],
            position=self.position[rows],
            phase=self.phase[rows],
        )
