"""Models from and for other programs: GGUF files and Ollama servers.

What never comes in: training, decoding, and anything that prints. Functions import packages such as `gguf`.
"""
