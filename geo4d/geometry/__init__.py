"""Pure tensor functions on kornia: pixels, cameras, rays, rigid transforms, rotations, similarities, two views, robust fits."""
