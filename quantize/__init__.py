"""Stage: a checkpoint becomes a smaller checkpoint, in compressed-tensors format and Hugging Face layout."""
