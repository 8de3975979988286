"""All windows at once: what is observed, the initial guess, the unknowns, the terms, and their solve."""
