"""The facts and words behind the pocket model, and the generator of the texts it was pretrained on."""
