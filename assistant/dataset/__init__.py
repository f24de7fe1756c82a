"""Instruction files: validated rows, splits, checks, prompts and token ids.

A new file format, row form or prompt template goes here. Nothing here imports torch, so that `assistant data` starts
fast, and nothing here knows about models or training.
"""
