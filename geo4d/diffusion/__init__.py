"""Schedule, parameterization and sampler; a network is a callable here."""
