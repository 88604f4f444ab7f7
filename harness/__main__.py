"""``python -m harness …`` is ``moebench …`` where nothing may be installed."""

from harness.cli import main

main()
