"""Answers of a model to a test set, their scores, and reports.

Add a new metric, judge or report format here. The package asks a model only through `assistant.decoding.session`. It
does not train, and it does not use Textual. Only `cli` prints.
"""
