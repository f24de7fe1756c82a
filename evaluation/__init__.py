"""Score what an instruction model answers: deterministic metrics, a local judge, and how far to trust the result."""
