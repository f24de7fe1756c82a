"""From weights to text: the decoding engine with its cache, kernels, sampling, drafts, and `Session`.

A new sampling filter, storage type or draft goes here. Chat, `ask` and evaluation all answer through `Session`. Nothing
here trains, prints, or reads a file of instructions.
"""
