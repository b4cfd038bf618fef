"""Why a model behaves as it does: calibration, context use, activations, memorization, text."""
