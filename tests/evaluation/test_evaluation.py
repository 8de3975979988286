"""The held-out set: a perfect prediction is perfect, baselines are what was committed before any training."""

import json
from pathlib import Path

import numpy as np
import pytest

from geo4d.errors import InputError
from geo4d.evaluation.demo import DEMO, demo_video
from geo4d.evaluation.methods import Guess
from geo4d.evaluation.predictions import Prediction
from geo4d.evaluation.protocols import PROTOCOLS
from geo4d.evaluation.report import clip_summary
from geo4d.evaluation.results import Results
from geo4d.evaluation.runner import Run
from geo4d.evaluation.sets.procedural import open_scenes
from geo4d.evaluation.store import Store, write_json
from geo4d.evaluation.synthetic import HELD_OUT_SEED, SCORES, SyntheticSet, render_true_clip, score_baselines, table
from geo4d.evaluation.tum import read_tum_clip
from geo4d.io.video import read_video
from geo4d.scene.files.reconstruction import format_tum
from geo4d.synthetic import LIFELIKE, render_clips, scene_seed


class Perfect:
    """A method that knows the truth, but for the scenes that it is told to fail on."""

    name, folder = "perfect", None

    def __init__(self, *fails):
        self.fails = fails

    def describe(self):
        return {"kind": "pipeline"}

    def source(self, sequence):
        return ""

    def predict(self, sequence, truth):
        if sequence.name in self.fails:
            raise InputError("nothing to see.")
        return Prediction(
            Path("truth"), np.where(truth.valid, truth.depth, np.nan), truth.cam_to_world, truth.intrinsics
        )


def run(folder, method):
    opened = open_scenes(HELD_OUT_SEED, 2, 4)
    Run(opened, [method, Guess("constant"), Guess("mean")], "relative", PROTOCOLS["relative"], Store(folder)).evaluate()
    return clip_summary(Results.load(Store(folder)), {"num": 2})


def test_a_perfect_prediction(tmp_path):
    result = run(tmp_path / "run", Perfect())
    model = result["median"]["model"]
    for key in ("abs_rel", "ate_sim3", "ate_scale", "rpe_rotation_deg", "focal_error"):
        assert model[key] == pytest.approx(0, abs=1e-5)
    assert model["delta1"] == 1 and result["median"]["ratio"]["abs_rel_by_constant"] < 1e-4
    assert list(model) == list(SCORES) and result["clips"][0]["statistics"].keys() >= {
        "dynamic_share",
        "path_by_median_depth",
    }
    assert "abs_rel" in table(result)
    write_json(tmp_path / "r.json", result)
    assert json.loads((tmp_path / "r.json").read_text())["clips"][1]["index"] == 1


def test_a_clip_that_fails_is_counted_and_named(tmp_path):
    result = run(tmp_path / "run", Perfect("0001"))
    assert result["median"]["failures"] == 1 and result["clips"][1]["failure"] == "nothing to see."
    failed, constant = result["clips"][1]["model"], result["clips"][1]["constant"]
    assert (
        failed["abs_rel"] == constant["abs_rel"]
        and failed["ate_sim3"] == constant["ate_sim3"]
        and failed["delta1"] == 0
    )
    assert result["clips"][0]["model"]["delta1"] == 1


@pytest.mark.slow
def test_committed_baselines_are_still_those_of_the_set():
    committed = json.loads((Path(__file__).parents[2] / "benchmarks" / "held_out_v1.json").read_text())
    entry = committed["clips"][3]
    again = score_baselines(render_true_clip(SyntheticSet(), 3))
    assert again["constant"]["abs_rel"] == pytest.approx(entry["constant"]["abs_rel"], rel=1e-3)
    assert again["mean"]["abs_rel"] == pytest.approx(entry["mean"]["abs_rel"], rel=1e-3)


def test_a_set_may_be_of_lifelike_worlds():
    plain, lifelike = (SyntheticSet(seed=77, num=1, frames=2, size=(16, 24), world=w) for w in ("plain", "lifelike"))
    assert SyntheticSet().world == "plain"
    clip = render_true_clip(lifelike, 0)
    expected = render_clips([scene_seed(77, 0)], num_frames=2, size=(16, 24), config=LIFELIKE)
    np.testing.assert_array_equal(clip.depth, expected.depth[0].numpy())
    assert not np.array_equal(clip.depth, render_true_clip(plain, 0).depth)


def test_the_bundled_clip():
    assert demo_video().stat().st_size < 1_000_000
    video = read_video(demo_video(), resize=lambda h, w: (h // 4, w // 4))
    assert len(video.frames) == DEMO.frames and video.source_size == DEMO.size


def test_a_recording_in_tum_layout(tmp_path):
    from PIL import Image

    clip = render_true_clip(SyntheticSet(num=1, frames=3, size=(32, 48)), 0)
    lists = {"rgb": [], "depth": []}
    for i in range(3):
        for kind, image in (("rgb", clip.frames[i]), ("depth", (clip.depth[i] * 1000).round().astype(np.uint16))):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(image).save(tmp_path / kind / f"{i}.png")
            lists[kind].append(f"{i * 0.1 + (0.005 if kind == 'depth' else 0)} {kind}/{i}.png")
    for kind, lines in lists.items():
        (tmp_path / f"{kind}.txt").write_text("# comment\n" + "\n".join(lines))
    (tmp_path / "groundtruth.txt").write_text(format_tum(np.arange(3) * 0.1, clip.cam_to_world))
    with pytest.raises(InputError, match=r"intrinsics\.txt is missing; expected fx fy cx cy"):
        read_tum_clip(tmp_path, depth_scale=1000.0, max_frames=10)
    fx, fy, cx, cy = (clip.intrinsics[0, i, j] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    (tmp_path / "intrinsics.txt").write_text(f"{fx} {fy} {cx} {cy}\n")
    read = read_tum_clip(tmp_path, depth_scale=1000.0, max_frames=10)
    np.testing.assert_allclose(read.intrinsics, clip.intrinsics, rtol=1e-6)
    near = clip.depth < 65  # what 16 bits of millimetres can hold
    np.testing.assert_allclose(read.depth[near], clip.depth[near], atol=1e-3)
    np.testing.assert_allclose(read.cam_to_world, clip.cam_to_world, atol=1e-6)
    np.testing.assert_array_equal(read.frames, clip.frames)
    (tmp_path / "rgb.txt").unlink()
    with pytest.raises(InputError, match=r"rgb\.txt is missing"):
        read_tum_clip(tmp_path, depth_scale=1000.0, max_frames=10)
