"""All windows at once: what is observed, the first guess, the unknowns, the terms, and their solve."""
