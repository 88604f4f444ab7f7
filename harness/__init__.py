"""moebench: which way of computing a Mixture-of-Experts layer is fastest, leanest and correct.

This is the library's face; an implementation needs nothing else:

>>> from harness import implementation, Layer, Routing
"""

from harness.cases.case import Case
from harness.cases.shape import Shape
from harness.layer.contract import Forward, Layer, Routing, Tunable
from harness.records.record import Chosen
from harness.records.tuned import TunedBook
from harness.running.registry import implementation, missing

__version__ = "0.1.0"
__all__ = [
    "Case",
    "Chosen",
    "Forward",
    "Layer",
    "Routing",
    "Shape",
    "Tunable",
    "TunedBook",
    "implementation",
    "missing",
]
