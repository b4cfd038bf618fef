"""Sweeps: points, local process pool, SLURM."""
