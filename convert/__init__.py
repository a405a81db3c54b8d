"""Stage: a checkpoint becomes ONNX graphs, held to the source at every step."""
