"""The commands a person types: options, progress on a terminal or in a pipe, error sentences, exit codes.

A new command or a new way to show a run goes here. Only this package and `assistant.tui` print. No arithmetic, no file
formats: they belong to the packages below.
"""
