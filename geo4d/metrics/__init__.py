"""Numbers that compare a result with the truth."""
