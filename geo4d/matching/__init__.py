"""Images to correspondences, from pixels alone: no depth, no cameras, nothing that is kept along a video."""
