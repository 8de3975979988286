"""Points of the world followed through the frames of a video, without any network."""

from geo4d.tracks.tracker import PointTracker, TrackerConfig, track_points

__all__ = ["PointTracker", "TrackerConfig", "track_points"]
