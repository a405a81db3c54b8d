"""Run a checkpoint or a graph set: open it, ask it, get answers and the time of each stage."""
