"""Fine-tune a GPT-2 to follow instructions and talk with it. `evaluation` scores what it answers."""

__version__ = "0.1.0"
