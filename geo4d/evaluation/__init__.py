"""The pipeline on data with known truth, beside baselines."""
