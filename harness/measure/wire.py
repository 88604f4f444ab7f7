"""What is said while rounds are conducted from another process: one JSON line a message over a socket. No torch.

The conductor gives orders, the worker replies to each of them with one message. A message takes tens of microseconds.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from harness.measure.rounds import Stopped

if TYPE_CHECKING:
    from socket import socket

CHUNK_BYTES = 1 << 16


class Begin(msgspec.Struct, frozen=True, tag=True):
    """Build the layer, compute the oracle, run the gate. Reply: Admitted, or Over when nobody is to be timed."""

    case_id: str


class WarmUp(msgspec.Struct, frozen=True, tag=True):
    """Warm everybody up for so long each. Reply: Warm or Dropped."""

    warmup_ns: float


class Draw(msgspec.Struct, frozen=True, tag=True):
    """Make a round's inputs, ``count`` draws from ``first`` on. Reply: Drawn."""

    first: int
    count: int


class Turn(msgspec.Struct, frozen=True, tag=True):
    """Time one sample; ``control`` is the second entry of its owner, for the A/A control. Reply: Took or Dropped."""

    owner: str
    round: int
    calls: int
    control: bool = False


class Again(msgspec.Struct, frozen=True, tag=True):
    """Forget the rounds: somebody dropped out elsewhere. Reply: Admitted."""


class Stop(msgspec.Struct, frozen=True, tag=True):
    """It was enough, and why. Reply: Over, when the records are written."""

    stopped: Stopped


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The worker has imported everything. ``broken`` are modules that failed, ``strays`` those from a wrong place."""

    broken: dict[str, str] = {}
    strays: dict[str, str] = {}


class Admitted(msgspec.Struct, frozen=True, tag=True):
    """Who passed the gate, and the seconds it took from the finished layer on."""

    names: list[str]
    spent_s: float


class Warm(msgspec.Struct, frozen=True, tag=True):
    """The shortest call of each so far."""

    estimates_ns: dict[str, float]


class Drawn(msgspec.Struct, frozen=True, tag=True):
    """The inputs are there."""


class Took(msgspec.Struct, frozen=True, tag=True):
    """The sample is taken; ``ns`` is the time of one call."""

    ns: float


class Dropped(msgspec.Struct, frozen=True, tag=True):
    """Somebody failed. Admitted follows, without it, or Over."""

    name: str


class Over(msgspec.Struct, frozen=True, tag=True):
    """The bout is over, its outcome written."""


Order = Begin | WarmUp | Draw | Turn | Again | Stop
Reply = Ready | Admitted | Warm | Drawn | Took | Dropped | Over
Message = Order | Reply


class Wire:
    """One end of the line."""

    def __init__(self, end: socket) -> None:
        self._end = end
        self._lines: list[bytes] = []
        self._torn = b""
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(Message)

    def send(self, message: Message) -> None:
        """Send a message whole."""
        self._end.settimeout(None)
        self._end.sendall(self._encoder.encode(message) + b"\n")

    def receive(self, timeout_s: float | None = None) -> Message | None:
        """Return the next message; None when none came in time.

        Raises
        ------
        EOFError
            when the other end is closed.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._lines:
            left_s = None if deadline is None else deadline - time.monotonic()
            if left_s is not None and left_s <= 0:
                return None
            self._end.settimeout(left_s)
            try:
                arrived = self._end.recv(CHUNK_BYTES)
            except TimeoutError:
                return None
            except ConnectionResetError:
                arrived = b""
            if not arrived:
                raise EOFError("the other end is closed")
            *self._lines, self._torn = (self._torn + arrived).split(b"\n")
        message: Message = self._decoder.decode(self._lines.pop(0))
        return message

    def close(self) -> None:
        """Hang up."""
        self._end.close()
