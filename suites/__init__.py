"""Suites: which cases to measure, as TOML."""
