"""Pure tensor functions on kornia.

Pixels, cameras, rays, rigid transforms, rotations, similarities, two views, robust fits.
"""
