"""Classification: labelled texts, their split, a model folder with a classification head, predictions and the report.

No instruction, no prompt template and no decoding here: a text is classified as it is. Importing this package imports
no torch.
"""
