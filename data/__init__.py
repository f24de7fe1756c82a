"""The shipped instructions and the pocket model, and how both are made."""
