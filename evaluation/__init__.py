"""Responses of a model, judgements of them, and reports.

A new metric, judge or report format goes here. It asks a model only through `assistant.decoding.session`. No training
and no Textual come in; `cli` is the only module that prints.
"""
