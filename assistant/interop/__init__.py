"""Models from and for other programs: the Hugging Face Hub, GGUF files, Ollama servers, the book's `.pth` files.

What never comes in: training, decoding, and anything that prints. Packages such as `huggingface_hub` and `gguf` are
imported inside functions.
"""
