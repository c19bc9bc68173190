"""What a log says before any model is trained."""
