"""The paper's own optimisation, to compare with."""
