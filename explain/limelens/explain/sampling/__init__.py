"""The neighbourhood: which samples are drawn, how they look, and what the model predicts."""
