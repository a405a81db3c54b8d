"""What is true of Qwen3-VL and of no other family."""
