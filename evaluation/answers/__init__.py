"""Responses of a model or from a file, and what can be said of each without a judge: metrics, marks, bits per byte.

What never comes in: scores, judges, and anything that prints.
"""
