"""Traces: which experts a real model chose, token by token, as files that are safe to read. Imports no torch.

``format`` says what a trace holds, ``reading`` and ``writing`` are the two ends of its file, ``checking`` is what both
hold it against, ``importing`` reads the layout of a public data set. The file is described in ``docs/traces.md``.
"""
