"""Scores of responses: rows that settle themselves, the judge's question and verdict, servers, controls, ledger.

What never comes in: how a report adds scores up or looks, and anything that prints.
"""
