"""Answers of a model to a test set, their scores, and reports.

Add a new metric, judge or report format here. The package asks a model only through `assistant.decoding.session`. It
does not train. Only `cli` prints, and only `people.label_screen` draws with Textual.
"""
