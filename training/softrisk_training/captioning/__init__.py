"""Models that describe an image in words: a small one trained here, and pre-trained ones behind the same interface."""
