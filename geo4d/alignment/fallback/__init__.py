"""What is left to do where the windows hold no points."""
