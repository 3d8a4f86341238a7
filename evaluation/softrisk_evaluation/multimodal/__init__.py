"""How robust classifiers of several inputs are, jointly and by one input alone, and what is proved of it."""
