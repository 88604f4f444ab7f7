"""Recorded traces that come with moebench, and the script that made them."""
