"""moebench inside other programs, and other programs inside moebench: models of transformers."""
