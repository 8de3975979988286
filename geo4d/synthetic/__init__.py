"""Procedural worlds: endless dynamic scenes with exact ground truth, rendered by torch alone."""

from geo4d.synthetic.render import FPS, render_clips, render_motion, scene_seed
from geo4d.synthetic.world import LIFELIKE, WORLDS, Detail, SceneConfig

__all__ = ["FPS", "LIFELIKE", "WORLDS", "Detail", "SceneConfig", "render_clips", "render_motion", "scene_seed"]
