"""Models from and for other programs: GGUF files, Ollama servers, the book's `.pth` files.

What never comes in: training, decoding, and anything that prints. Functions import packages such as `gguf`.
"""
