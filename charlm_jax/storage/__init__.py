"""A run on disk: directory and lock, checkpoints, metrics, safetensors exports."""
