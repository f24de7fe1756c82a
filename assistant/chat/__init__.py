"""A conversation without pictures: its turns, its worker thread, its file, held-out rows, and exports.

The terminal chat, `chat --plain` and `ask` use it. It never imports Textual, and imports torch only in the thread that
loads a model. A conversation changes in one thread only, by records (`records`); the worker's thread posts events
(`events`).
"""
