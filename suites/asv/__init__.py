"""What asv measures: see ``benchmarks``."""
