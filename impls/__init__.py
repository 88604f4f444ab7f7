"""moebench's own implementations, one a file. A new one touches nothing else."""
