"""Pure tensor functions: pixels, cameras, rigid transforms, rotations, similarities, Plücker rays, robust fits."""
