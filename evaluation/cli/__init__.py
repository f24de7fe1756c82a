"""What a person types after `evaluation`. Only this room prints.

What never comes in: arithmetic, files and texts of reports; they are in the rooms below.
"""
