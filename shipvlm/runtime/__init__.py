"""Run a checkpoint: load it, ask it, get answers."""
