"""Pictures and questions: calibration and evaluation sets, their digests and the leakage guard."""
