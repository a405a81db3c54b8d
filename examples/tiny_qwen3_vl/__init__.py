"""The default model: a small genuine Qwen3-VL, how it was trained, and how it is judged."""
