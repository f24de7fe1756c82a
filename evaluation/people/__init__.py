"""What people add: labels of rows, how they agree with the judge, and preference pairs for `assistant prefer`.

What never comes in: how a judge is asked. Only `label_screen` draws on the terminal.
"""
