"""The facts and words that the pocket model learns, and the generator of its pretraining corpus."""
