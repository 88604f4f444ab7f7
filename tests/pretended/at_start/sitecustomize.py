"""With this folder on PYTHONPATH a worker finds a pretended GPU. Python imports this file before anything else."""

import sys
from pathlib import Path

if "harness.running.worker" in sys.orig_argv:
    sys.path.insert(0, str(Path(__file__).parents[3]))
    import torch

    from tests.pretended.gpu import pretended

    torch.version.cuda = "13.0"
    lasting = pretended()
    lasting.__enter__()
