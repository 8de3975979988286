"""Points of the world followed through the frames of a video, without any network."""

from geo4d.tracks.config import LoopClosureConfig, TrackerConfig
from geo4d.tracks.follower import PointFollower, track_points

__all__ = ["LoopClosureConfig", "PointFollower", "TrackerConfig", "track_points"]
