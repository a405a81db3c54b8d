"""What is particular to one model family."""
