"""Least squares: the damped loop, the robust losses, and the linear algebra of systems with structure."""
