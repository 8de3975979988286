"""How a model is made: stages, the loop, the latent pool."""
