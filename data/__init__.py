"""The shipped instruction set and pocket model, and the programs that make them."""
