"""Instruction files and what they become: validated rows, splits, checks, prompts, token ids.

A new file format, row form or prompt template goes here. No torch comes in, so that `assistant data` answers at once,
and nothing here knows about models or training.
"""
