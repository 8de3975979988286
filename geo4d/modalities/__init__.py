"""Geometry <-> images: each modality knows its meaning and its latent slots, and nothing of networks."""

from geo4d.modalities.layout import ORDER, Layout, make_layout

__all__ = ["ORDER", "Layout", "make_layout"]
