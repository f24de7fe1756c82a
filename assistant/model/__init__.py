"""The network and its folder: GPT-2 in torch, LoRA, checkpoints in Hugging Face's layout, compiled C loops.

A new layer, model family or checkpoint format goes here. Nothing here knows about losses, optimizers, sampling or files
of instructions beyond what a checkpoint records.
"""
