"""Cameras by points that were followed through the video: bundle adjustment, its starts, and whether it is worth it."""
