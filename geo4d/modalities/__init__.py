"""Geometry <-> images: each modality knows its meaning and its latent slots, and nothing of networks."""

from geo4d.modalities.layout import LATENT_CHANNELS, ORDER, Layout, make_layout

__all__ = ["LATENT_CHANNELS", "ORDER", "Layout", "make_layout"]
