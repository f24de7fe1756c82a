"""The terminal chat: screens, widgets, keys. The only package that uses Textual.

A new key, widget or screen goes here. It shows what other packages return; no model arithmetic and no file formats.
torch is imported in a thread, after the first screen is painted.
"""
