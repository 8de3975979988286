"""The renderer's truth is true: points seen in one frame are where the truth says in another."""

import json

import numpy as np
import pytest
import torch

from geo4d.cli import main
from geo4d.errors import ConfigError, InputError
from geo4d.geometry.camera import project, unproject
from geo4d.geometry.rigid import invert_rigid, transform_points
from geo4d.synthetic import LIFELIKE, SceneConfig, render_clips, render_motion, scene_seed
from geo4d.synthetic.files import CLIP_FILE, write_clip, write_contact_sheet

SEEDS = [scene_seed(31, i) for i in range(6)]


@pytest.fixture(scope="module")
def clips():
    return render_clips(SEEDS, num_frames=3, size=(48, 72), frame_step=4)


def look_up(image, pixels):
    """Nearest pixel of (h, w, ...) at (n, 2); and whether it lies inside."""
    column, row = pixels.floor().long().unbind(-1)
    inside = (column >= 0) & (row >= 0) & (column < image.shape[1]) & (row < image.shape[0])
    return image[row.clamp(0, image.shape[0] - 1), column.clamp(0, image.shape[1] - 1)], inside


def test_static_points_agree_between_frames(clips):
    agreeing = total = 0
    for b in range(len(SEEDS)):
        points = unproject(clips.depth[b, 0], clips.intrinsics[b, 0]).flatten(0, 1)
        there = transform_points(invert_rigid(clips.cam_to_world[b, 2]), points)
        pixels = project(there, clips.intrinsics[b, 2])
        seen, inside = look_up(clips.depth[b, 2], pixels)
        instance, _ = look_up(clips.instance[b, 2], pixels)
        static = clips.valid[b, 0].flatten() & ~clips.dynamic[b, 0].flatten() & inside & (there[:, 2] > 0.1)
        same = static & (instance == clips.instance[b, 0].flatten()) & (seen > 0)
        error = (seen - there[:, 2]).abs() / there[:, 2]
        # nearest pixels of a slanted surface differ by the slope; of what is visible in both most must agree
        agreeing += int((same & (error < 0.08)).sum())
        total += int(same.sum())
    assert total > 5000
    assert agreeing / total > 0.9


def test_motion_of_a_moving_scene_is_where_it_is_seen():
    checked = 0
    for seed in SEEDS:
        now = render_clips([seed], num_frames=2, size=(96, 144), frame_step=6)
        moved = render_motion(seed, size=(96, 144), from_frame=0, to_frames=[6, 0])
        start = unproject(now.depth[0, 0], now.intrinsics[0, 0])
        valid = now.valid[0, 0]
        torch.testing.assert_close(moved[1][valid], start[valid], atol=2e-3, rtol=2e-4)
        assert moved[0][~valid].isnan().all()
        moving = valid & now.dynamic[0, 0]
        if moving.sum() < 30:
            continue
        there = transform_points(invert_rigid(now.cam_to_world[0, 1]), moved[0][moving])
        seen, inside = look_up(now.depth[0, 1], project(there, now.intrinsics[0, 1]))
        visible = inside & ((seen - there[:, 2]).abs() < 0.3)
        error = ((seen - there[:, 2]).abs() / there[:, 2])[visible]
        assert error.median() < 0.02
        checked += 1
    assert checked > 0


def test_a_scene_does_not_depend_on_its_batch(clips):
    alone = render_clips(SEEDS[2:3], num_frames=3, size=(48, 72), frame_step=4)
    torch.testing.assert_close(alone.depth[0], clips.depth[2], atol=1e-4, rtol=1e-5)
    assert torch.equal(alone.instance[0], clips.instance[2])
    torch.testing.assert_close(alone.rgb[0], clips.rgb[2], atol=0.05, rtol=0)
    again = render_clips(SEEDS, num_frames=3, size=(48, 72), frame_step=4)
    assert torch.equal(again.rgb, clips.rgb) and torch.equal(again.depth, clips.depth)


def test_geometry_does_not_depend_on_the_resolution(clips):
    fine = render_clips(SEEDS, num_frames=3, size=(144, 216), frame_step=4)
    same = (fine.depth[:, :, 1::3, 1::3] - clips.depth).abs() < 1e-3 * clips.depth.clamp_min(1)
    assert same.float().mean() > 0.999


def test_start_and_step_choose_frames(clips):
    later = render_clips(SEEDS, num_frames=1, size=(48, 72), start=[8] * len(SEEDS))
    torch.testing.assert_close(later.depth[:, 0], clips.depth[:, 2], atol=1e-4, rtol=1e-4)


def test_sky_and_validity(clips):
    assert torch.equal(clips.valid, ~clips.sky)
    assert (clips.depth[clips.sky] == 0).all() and (clips.depth[clips.valid] > 0.02).all()
    assert (clips.depth <= SceneConfig().far).all()
    assert (clips.instance[clips.sky] == -1).all()
    assert clips.rgb.min() >= 0 and clips.rgb.max() <= 1


def test_scenes_are_varied_and_sane():
    clips = render_clips([scene_seed(32, i) for i in range(40)], num_frames=1, size=(24, 36))
    sky = clips.sky.float().mean(dim=(1, 2, 3))
    assert (sky < 0.9).all() and (sky > 0.02).float().mean() > 0.2
    assert (clips.rgb.mean(dim=(1, 2, 3, 4)) > 0.03).all()
    fields = 2 * torch.atan(36 / 2 / clips.intrinsics[:, 0, 0, 0]).rad2deg()
    assert fields.min() >= 34.9 and fields.max() <= 100.1 and fields.std() > 10
    medians = torch.stack([clips.depth[i][clips.valid[i]].median() for i in range(40)])
    assert medians.max() / medians.min() > 4


def test_seeds_are_distinct():
    assert len({scene_seed(split, index) for split in range(20) for index in range(50)}) == 1000


def test_an_empty_request_is_refused():
    with pytest.raises(ConfigError, match="needs seeds"):
        render_clips([], num_frames=1, size=(8, 8))


def test_clips_as_files(tmp_path):
    write_clip(tmp_path / "a", SEEDS[0], frames=3, size=(32, 48))
    assert np.load(tmp_path / "a" / "depth.npy").shape == (3, 32, 48)
    assert (tmp_path / "a" / "rgb.mp4").stat().st_size > 500
    before = (tmp_path / "a" / "depth.npy").stat().st_mtime_ns
    write_clip(tmp_path / "a", SEEDS[0], frames=3, size=(32, 48))
    assert (tmp_path / "a" / "depth.npy").stat().st_mtime_ns == before
    write_contact_sheet(tmp_path / "sheet.png", SEEDS[:4], size=(24, 36))
    assert (tmp_path / "sheet.png").stat().st_size > 1000


@pytest.mark.parametrize("has_entry", [True, False], ids=["with clip.json", "of before"])
def test_a_folder_with_other_clips_is_refused(has_entry, tmp_path):
    write_clip(tmp_path / "a", SEEDS[0], frames=3, size=(32, 48))
    if not has_entry:
        (tmp_path / "a" / CLIP_FILE).unlink()
    write_clip(tmp_path / "a", SEEDS[0], frames=3, size=(32, 48))
    got = str(SEEDS[0]) if has_entry else "another"
    for seed, frames, size, message in (
        (SEEDS[1], 3, (32, 48), f"a holds a clip of seed {got}, asked for {SEEDS[1]}; remove it"),
        (SEEDS[0], 4, (32, 48), "a holds a clip of frames 3, asked for 4"),
        (SEEDS[0], 3, (48, 32), r"a holds a clip of size \[32, 48\], asked for \[48, 32\]"),
    ):
        with pytest.raises(InputError, match=message):
            write_clip(tmp_path / "a", seed, frames=frames, size=size)
    (tmp_path / "a" / CLIP_FILE).write_text("[]")
    with pytest.raises(InputError, match="holds no clip of geo4d synth that can be read"):
        write_clip(tmp_path / "a", SEEDS[0], frames=3, size=(32, 48))
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match="holds no clip of geo4d synth that can be read"):
        write_clip(tmp_path / "b", SEEDS[0], frames=3, size=(32, 48))


def test_the_command_does_not_take_other_clips_for_its_own(tmp_path, capsys):
    words = ["synth", "--out", str(tmp_path), "--num", "1", "--frames", "2", "--size", "16", "24", "-q"]
    assert main(words) == 0 and main(words) == 0
    assert main([*words, "--seed", "1"]) == 2
    error = capsys.readouterr().err
    assert "00000 holds a clip of seed" in error and error.count("\n") == 1
    assert main(["synth", "--benchmark", "v1", "--out", str(tmp_path), "--seed", "0", "-q"]) == 2
    assert "--seed would do nothing here" in capsys.readouterr().err


def test_the_command_writes_lifelike_clips_and_tells_them_from_plain_ones(tmp_path, capsys):
    words = ["synth", "--out", str(tmp_path), "--num", "1", "--frames", "2", "--size", "16", "24", "-q"]
    assert main([*words, "--detail", "lifelike"]) == 0 and main([*words, "--detail", "lifelike"]) == 0
    assert json.loads((tmp_path / "00000" / CLIP_FILE).read_text())["detail"] == "lifelike"
    clip = render_clips([scene_seed(0, 0)], num_frames=2, size=(16, 24), config=LIFELIKE)
    assert np.array_equal(np.load(tmp_path / "00000" / "depth.npy"), clip.depth[0].numpy())
    assert main(words) == 2
    assert "00000 holds a clip of detail lifelike, asked for plain" in capsys.readouterr().err
    assert main(["synth", "--benchmark", "v1", "--out", str(tmp_path / "b"), "--detail", "lifelike", "-q"]) == 2
    assert "--detail would do nothing here" in capsys.readouterr().err
