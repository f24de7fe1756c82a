"""Models from and for other programs: GGUF files, Ollama servers, the book's `.pth` files.

What never comes in: training, decoding, and anything that prints. Packages such as `gguf` are imported inside functions.
"""
