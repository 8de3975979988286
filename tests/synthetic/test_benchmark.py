"""The procedural benchmark: its table, that it can be built again, and that what differs is found."""

import hashlib
import json
import shutil
from collections import Counter
from dataclasses import fields

import numpy as np
import pytest

from geo4d.cli import main
from geo4d.data import open_data
from geo4d.errors import ConfigError
from geo4d.evaluation.sets import open_set
from geo4d.synthetic import SceneConfig, scene_seed
from geo4d.synthetic.benchmark import BENCHMARKS, benchmark_clips, columns, parameters_hash
from geo4d.synthetic.reference import DEPTH, LEVELS, check_benchmark, load_reference, reference_file
from geo4d.synthetic.render import make_batch

CLIPS = BENCHMARKS["v1"]
LIFELIKE_CLIPS = BENCHMARKS["v2"]
CLIP = CLIPS[40]  # a street, 32 frames, a camera that stands still
# of 150 scenes before there was a benchmark
WORLDS = "a3edae56e8df026bf417454f5c36f51fbc5b71b5d48c57204c46ac3918e2fbd5"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("v1")
    assert main(["synth", "--benchmark", "v1", "--only", CLIP.name, "--out", str(root)]) == 0
    return root


@pytest.fixture
def copy(built, tmp_path):
    return shutil.copytree(built, tmp_path / "copy")


def test_the_table_has_every_kind():
    assert len(CLIPS) == 60 and len({clip.name for clip in CLIPS}) == 60 and len({clip.seed for clip in CLIPS}) == 60
    assert Counter(clip.category for clip in CLIPS) == {"indoor": 20, "outdoor": 20, "driving": 20}
    assert min(clip.frames for clip in CLIPS) == 32 and max(clip.frames for clip in CLIPS) == 200
    for category in ("indoor", "outdoor", "driving"):
        kinds = {(clip.camera == "static", clip.motion) for clip in CLIPS if clip.category == category}
        assert len(kinds) == 6


def test_the_lifelike_table_has_every_kind():
    clips = LIFELIKE_CLIPS
    assert len(clips) == 24 and len({clip.name for clip in clips}) == len({clip.seed for clip in clips}) == 24
    assert Counter(clip.category for clip in clips) == {"table": 6, "room": 6, "outdoor": 6, "driving": 6}
    assert min(clip.frames for clip in clips) == 32 and max(clip.frames for clip in clips) == 96
    assert Counter(clip.size for clip in clips)[192, 144] == 2
    assert {clip.size for clip in clips} == {(144, 192), (128, 192), (112, 192), (192, 144)}
    assert {"static", "handheld", "walk", "drive"} <= {clip.camera for clip in clips}
    assert all(clip.config.detail == "lifelike" and not clip.config.staging.movers for clip in clips)
    assert not {clip.seed for clip in clips} & {scene_seed(CLIP.split, index) for index in range(400)}


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_scene_parameters_are_the_published_ones(version):
    reference, clips = load_reference(reference_file(version)), BENCHMARKS[version]
    assert reference.names == [clip.name for clip in clips]
    assert [parameters_hash(clip) for clip in clips] == reference.parameters


def test_every_number_of_a_lifelike_scene_counts():
    """Materials, light and lens too: other numbers, another hash."""
    batch, shared = make_batch([LIFELIKE_CLIPS[0].seed], LIFELIKE_CLIPS[0].config), set()
    for group in (batch.parts, batch.cameras, batch.lights, batch.style, batch.lifelike.studio, batch.lifelike.lens):
        shared |= {field.name for field in fields(group)}
    assert {"finish", *shared} == {name for name, _ in columns(batch)}


def test_a_lifelike_clip_is_as_published(tmp_path, capsys):
    clip = LIFELIKE_CLIPS[19]
    words = ["synth", "--benchmark", "v2", "--only", clip.name, "--out", str(tmp_path)]
    assert main(words) == 0 and main([*words, "--check"]) == 0
    assert "as published" in capsys.readouterr().out
    opened = open_set("procedural-v2", tmp_path)
    assert opened.names == (clip.name,) and opened.missing == ("23 of 24 sequences",)
    assert opened.sequence(clip.name).images().shape == (clip.frames, *clip.size, 3)


def test_worlds_made_to_no_order_are_what_they_were():
    digest = hashlib.sha256()
    for split in (1, 31, 77, 900001, 910001):
        batch = make_batch([scene_seed(split, index) for index in range(30)], SceneConfig())
        for group in (batch.parts, batch.cameras, batch.lights, batch.style):
            for field in fields(group):
                digest.update(getattr(group, field.name).numpy().tobytes())
    assert digest.hexdigest() == WORLDS


def test_a_clip_is_as_published(built, capsys):
    assert main(["synth", "--benchmark", "v1", "--only", CLIP.name, "--out", str(built), "--check"]) == 0
    assert "as published" in capsys.readouterr().out
    entry = json.loads((built / "manifest.json").read_text())["clips"]
    assert [each["name"] for each in entry] == [CLIP.name] and entry[0]["summary"]["sky_share"] < 0.9


def test_a_clip_that_is_there_stays(built):
    before = (built / CLIP.name / "depth.npy").stat().st_mtime_ns
    assert main(["synth", "--benchmark", "v1", "--only", CLIP.name, "--out", str(built)]) == 0
    assert (built / CLIP.name / "depth.npy").stat().st_mtime_ns == before


@pytest.mark.parametrize(("factor", "fault"), [(1 + DEPTH / 3, None), (1 + 5 * DEPTH, "depth differs")])
def test_depth_that_is_off_is_found(copy, factor, fault):
    file = copy / CLIP.name / "depth.npy"
    np.save(file, np.load(file) * np.float32(factor))
    faults = check_benchmark([CLIP], copy, load_reference(reference_file("v1")))
    assert (faults == []) if fault is None else fault in faults[0]


def test_pixels_and_parameters_that_are_off_are_found(copy, capsys):
    from geo4d.io.video import read_video
    from geo4d.synthetic.files import write_lossless

    file = copy / CLIP.name / "rgb.mp4"
    pictures = read_video(file).frames
    write_lossless(file, np.clip(pictures.astype(int) + LEVELS + 1, 0, 255).astype(np.uint8))
    words = ["synth", "--benchmark", "v1", "--only", CLIP.name, "--out", str(copy)]
    assert main([*words, "--check"]) == 2
    assert "pixels differ by up to 2 levels" in capsys.readouterr().out
    entry = copy / CLIP.name / "clip.json"
    entry.write_text(entry.read_text().replace(parameters_hash(CLIP), "0" * 64))
    assert main([*words, "--check"]) == 2 and "its scene parameters are others" in capsys.readouterr().out
    assert main(words) == 2 and "other scene parameters" in capsys.readouterr().err
    shutil.rmtree(copy / CLIP.name)
    assert main([*words, "--check"]) == 2 and "is missing" in capsys.readouterr().out


def test_wrong_names_are_said():
    with pytest.raises(ConfigError, match="no benchmark 'v9'"):
        benchmark_clips("v9")
    with pytest.raises(ConfigError, match="is chosen by 'x'"):
        benchmark_clips("v1", only="x")
    assert main(["synth", "--out", "nowhere", "--check"]) == 2


def test_it_is_a_set_for_evaluation_and_for_training(built):
    opened = open_set("procedural-v1", built)
    assert opened.names == (CLIP.name,) and opened.missing == ("59 of 60 sequences",)
    sequence = opened.sequence(CLIP.name)
    assert sequence.num_frames == CLIP.frames and sequence.images().shape == (CLIP.frames, *CLIP.size, 3)
    depth, valid = sequence.depths()
    assert valid.mean() > 0.3 and sequence.read_moving(0).dtype == bool
    data = open_data(built)
    clip = data.read(data.recordings[0], [0, 5])
    np.testing.assert_array_equal(clip.depth[1].numpy(), depth[5])
    np.testing.assert_array_equal(clip.rgb[1].mul(255).round().byte().numpy(), sequence.read_image(5))
