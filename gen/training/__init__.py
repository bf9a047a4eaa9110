"""State, optimiser, checkpoints and reports of a training run."""
