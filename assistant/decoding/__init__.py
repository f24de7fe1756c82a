"""From weights to text: the decoder and its caches, kernels, sampling, speculative decoding, and `Session`.

Put a new sampling filter, weight storage or draft here. The chat, `ask` and evaluation all generate through `Session`.
Nothing here trains, prints, or reads an instruction file.
"""
