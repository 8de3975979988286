"""Procedural worlds: endless dynamic scenes with exact ground truth, rendered by torch alone."""

from geo4d.synthetic.render import FPS, render_clips, render_motion, scene_seed
from geo4d.synthetic.world import LIFELIKE, SceneConfig

__all__ = ["FPS", "LIFELIKE", "SceneConfig", "render_clips", "render_motion", "scene_seed"]
