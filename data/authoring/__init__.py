"""The programs that make the instruction set and the pocket model."""
