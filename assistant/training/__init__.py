"""From rows to better weights: batches, loss, optimizer, the training loop, DPO, validation, the run's folder.

A new optimizer, loss or schedule goes here. A run reports through an `Observer`; nothing here prints, parses options or
knows about terminals.
"""
