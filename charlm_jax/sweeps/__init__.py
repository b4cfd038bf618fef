"""Sweeps: their points, the local process pool, SLURM."""
