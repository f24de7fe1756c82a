"""The terminal chat: screens, widgets and keys. The only package that imports Textual.

Add a new key, widget or screen here. The package shows what other packages return. It does no model arithmetic and
knows no file formats. A thread imports torch after the first screen is painted.
"""
