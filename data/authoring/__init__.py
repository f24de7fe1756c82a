"""How the instruction set and the pocket model are made."""
