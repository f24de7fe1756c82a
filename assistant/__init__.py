"""Fine-tune a GPT-2 to follow instructions and talk with it. `evaluation` scores its answers.

The rooms, from the bottom up: `dataset` (files to token rows), `model` (the network and its folder), `decoding`
(weights to text), `training` (rows to better weights), `tui` (the chat) and `cli` (the commands). The files beside them
hold what all rooms share: errors, escaping, settings, files. They import no torch and print nothing.
"""

__version__ = "0.1.0"
