"""Metric scale, diagnostics, covariances and moving pixels, computed last: on the final cameras and the final depth."""
