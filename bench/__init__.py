"""Stage: measures checkpoints, compares them item by item, and reports."""
