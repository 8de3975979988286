"""Which clips a run sees: the same for the same place, never the same for two; the pool that holds them encoded."""

import logging
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from trees import HOLE, write_folder, write_pointodyssey, write_spring

from geo4d.cli import main
from geo4d.data.mixture import MixtureConfig, Size
from geo4d.errors import ConfigError, InputError
from geo4d.training.config import DataConfig, Length, SetConfig, WorldShare
from geo4d.training.latents import LatentPool
from geo4d.training.loop import Draw
from geo4d.training.sources import MixtureSource, Place, ProceduralSource, open_source

SIZES = [Size(16, 24), Size(24, 16)]
PAIRS, WINDOWS = Length(2, 3), Length(4, 2)


def same(a, b):
    return (
        torch.equal(a.clip.depth, b.clip.depth)
        and torch.equal(a.frame_index, b.frame_index)
        and torch.equal(a.fps, b.fps)
    )


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_folder(root / "clips")
    write_spring(root / "spring")
    return root


def mixed(roots, **settings):
    sets = {"spring": SetConfig(str(roots / "spring")), "clips": SetConfig(str(roots / "clips")), "bedlam": None}
    mixture = MixtureConfig(ratios={"spring": 1.0, "clips": 2.0}, strides=(1,), film=None)
    return DataConfig(sizes=list(SIZES), lengths=[Length(2)], sets=sets, mixture=mixture, **settings)


def test_procedural_batches_are_always_the_same():
    source = ProceduralSource(SIZES, 2)
    first, again = source.batch(Place(5), PAIRS), ProceduralSource(SIZES, 2).batch(Place(5), PAIRS)
    assert same(first, again) and not same(first, source.batch(Place(6), PAIRS, [Size(*first.clip.depth.shape[-2:])]))
    assert (first.frame_index[:, 1] >= 1).all() and (first.frame_index[:, 1] <= 15).all()
    assert set(source.batch(Place(1), Length(4, 30)).fps.tolist()) == {24.0, 12.0, 8.0}


def test_worlds_are_drawn_by_their_shares_and_plain_ones_stay_as_they_were():
    mixed_worlds = [WorldShare("plain", 0.4), WorldShare("lifelike", 0.6)]
    source, plain = ProceduralSource(SIZES, 2, worlds=mixed_worlds), ProceduralSource(SIZES, 2)
    alike = [same(source.batch(Place(i), Length(2, 1)), plain.batch(Place(i), Length(2, 1))) for i in range(10)]
    assert 1 <= sum(alike) <= 8
    with pytest.raises(ConfigError, match="worlds"):
        DataConfig(worlds=[WorldShare(share=0.0)])


def test_parts_of_a_step_have_one_size_and_other_clips():
    source = ProceduralSource(SIZES, 2)
    for step in range(6):
        one, two = (source.batch(Place(step, part, 2), PAIRS) for part in (0, 1))
        assert one.clip.depth.shape == two.clip.depth.shape and not torch.equal(one.clip.depth, two.clip.depth)


def test_a_place_is_the_same_however_a_step_is_split():
    alone = [Place.of(Draw.at(3, micro=micro, accumulate=4)) for micro in range(4)]
    shared = [
        Place.of(Draw.at(3, micro=micro, rank=rank, accumulate=2, world=2)) for micro in range(2) for rank in range(2)
    ]
    assert alone == shared and [place.number for place in alone] == [12, 13, 14, 15]


def test_streams_and_seeds_share_no_clip():
    data = DataConfig(sizes=[SIZES[0]])
    batches = [
        open_source(data, seed=seed, stream=stream).batch(Place(0), PAIRS) for seed in (0, 1) for stream in (1, 2, 3)
    ]
    depths = torch.stack([batch.clip.depth for batch in batches]).flatten(1)
    assert len(torch.unique(depths, dim=0)) == 6


def test_sets_are_mixed_and_pairs_are_apart(roots):
    source = open_source(mixed(roots), seed=0, stream=2)
    assert isinstance(source, MixtureSource) and sorted(source.sets) == ["clips", "spring"]
    first, again = (open_source(mixed(roots), seed=0, stream=2).batch(Place(3), PAIRS) for _ in range(2))
    assert same(first, again)
    gap = first.frame_index[:, 1]
    assert (gap >= 1).all() and (gap < 6).all() and not first.frame_index[:, 0].any()
    assert set(first.fps.tolist()) <= {24.0, 30.0, 60.0}  # the rate is the film's, the gap is in the frame numbers


def test_reading_ahead_changes_nothing(roots):
    plain, ahead = (open_source(mixed(roots, readers=readers), seed=0, stream=2) for readers in (0, 1))
    for step in (0, 1, 2, 3, 9, 10, 4):
        assert same(plain.batch(Place(step, 1, 2), WINDOWS), ahead.batch(Place(step, 1, 2), WINDOWS))


def test_all_parts_of_a_step_share_the_readers(roots):
    plain, ahead = (open_source(mixed(roots, readers=readers), seed=0, stream=2) for readers in (0, 2))
    before = len(multiprocessing.active_children())
    for step, parts, readers in ((0, (1, 3, 5), 0), (1, (1, 3, 5), 2), (2, (1, 3, 5), 2), (4, (1, 3), 2), (5, (5,), 0)):
        for part in parts:
            assert same(plain.batch(Place(step, part, 6), WINDOWS), ahead.batch(Place(step, part, 6), WINDOWS))
            assert len(multiprocessing.active_children()) == before + readers


def lossy(root, lost):
    """Ten recordings, some of them without depth."""
    write_folder(root / "00000")
    for number in range(10):
        shutil.copytree(root / "00000" / "00000", root / "set" / f"{number:05d}")
    for number in range(lost):
        (root / "set" / f"{number:05d}" / "depth.npy").unlink()
    return root / "set"


def sparse(root, **settings):
    own = MixtureConfig(ratios={"clips": 1.0}, strides=(1,), film=None, **settings)
    return DataConfig(sizes=list(SIZES), sets={"clips": SetConfig(str(root))}, mixture=own)


def test_recordings_that_are_of_no_use_are_counted(tmp_path, caplog):
    root = lossy(tmp_path, 5)
    with (
        caplog.at_level(logging.WARNING, "geo4d"),
        pytest.raises(InputError, match=r"5 of 10 recordings of clips .* 5 % .*00000.*data check") as caught,
    ):
        open_source(sparse(root), seed=0, stream=1)
    assert str(root) in str(caught.value) and "most_bad" in str(caught.value)
    named = [record.getMessage() for record in caplog.records]
    assert [f"{root}/{number:05d}/depth.npy: is missing" in message for number, message in enumerate(named[:3])] == [
        True
    ] * 3
    assert len(named) == 4 and "2 more problems" in named[3]
    with caplog.at_level(logging.WARNING, "geo4d"):
        source = open_source(sparse(root, most_bad=0.5), seed=0, stream=1)
    assert isinstance(source, MixtureSource) and len(source.sets["clips"].recordings) == 5


def test_recordings_that_are_left_out_are_no_loss(tmp_path, caplog):
    config = sparse(lossy(tmp_path, 5))
    config.sets["clips"] = SetConfig(config.sets["clips"].root, include="0000[5-9]")
    with caplog.at_level(logging.WARNING, "geo4d"):
        assert len(open_source(config, seed=0, stream=1).sets["clips"].recordings) == 5
    assert not caplog.records


def test_holes_are_filled_where_a_set_asks_for_it(tmp_path):
    truth = write_pointodyssey(tmp_path)
    hole = truth.instance[0] == HOLE
    shares = []
    for fill in (None, 4):
        own = MixtureConfig(ratios={"points": 1.0}, film=None)
        config = DataConfig(sizes=list(SIZES), sets={"points": SetConfig(str(tmp_path), fill=fill)}, mixture=own)
        data = open_source(config, seed=0, stream=1).sets["points"]
        shares.append(float(data.read(data.recordings[0], [0]).valid[0][hole].float().mean()))
    assert shares[0] == 0 and shares[1] > 0.9


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (lambda root: SetConfig(str(root / "spring"), fill=4), "pointodyssey alone.*fill=4.*a spring"),
        (lambda root: SetConfig(kind="procedural", fill=4), "no holes to fill"),
    ],
    ids=["spring", "procedural"],
)
def test_a_set_that_cannot_be_filled_is_refused(entry, message, roots):
    with pytest.raises(ConfigError, match=message):
        open_source(DataConfig(sets={"some": entry(roots)}), seed=0, stream=1)


def test_a_negative_fill_is_refused(tmp_path):
    write_pointodyssey(tmp_path)
    with pytest.raises(ConfigError, match="from 0; got -1"):
        open_source(DataConfig(sets={"some": SetConfig(str(tmp_path), fill=-1)}), seed=0, stream=1)


def write_pool(folder: Path, groups=(("16x24x2", 6), ("24x16x2", 3), ("16x24x4", 2))):
    number = 0
    for name, shards in groups:
        height, width, frames = map(int, name.split("x"))
        for _ in range(shards):
            rgb = torch.full((5, 4, frames, height // 8, width // 8), float(number)).half()
            rgb[:, 0] += torch.arange(5)[:, None, None, None] / 8
            content = {"rgb": rgb, "frame_index": torch.arange(frames).repeat(5, 1), "fps": torch.full((5,), 24.0)}
            save_file(content, folder / f"{name}_{number:06d}.safetensors")
            number += 1
    return LatentPool(folder)


def test_the_pool_draws_by_place(tmp_path):
    pool, again = write_pool(tmp_path), LatentPool(tmp_path)
    draws = [pool.draw(Place(step, part, 2), seed=1, frames=8, clip_frames=2) for step in range(20) for part in (0, 1)]
    other = again.draw(Place(7, 1, 2), seed=1, frames=8, clip_frames=2)
    assert (
        torch.equal(other["rgb"], draws[15]["rgb"])
        and other["rgb"].dtype == torch.float32
        and other["rgb"].shape[:3] == (4, 4, 2)
    )
    assert all(
        a["rgb"].shape == b["rgb"].shape for a, b in zip(draws[::2], draws[1::2], strict=True)
    )  # one size a step
    tall = [draw for draw in draws if draw["rgb"].shape[3] == 3]
    assert 0 < len(tall) < len(draws) / 2 + 6
    clips = np.concatenate([draw["rgb"][:, 0, 0, 0, 0].numpy() for draw in draws])
    assert len(np.unique(clips)) > 30  # of 45
    wide = [pool.draw(Place(step), seed=1, frames=8, clip_frames=2, sizes=[(16, 24)]) for step in range(20)]
    assert {draw["rgb"].shape[3] for draw in wide} == {2}


def test_a_sample_takes_every_length(tmp_path):
    sample = write_pool(tmp_path).sample((16, 24), 2)
    assert set(sample) == {"rgb"} and sample["rgb"].shape == (2 * 5 * 2 + 2 * 5 * 4, 4, 2, 3)


def test_what_a_pool_does_not_have(tmp_path):
    with pytest.raises(InputError, match="There are no latents"):
        LatentPool(tmp_path)
    pool = write_pool(tmp_path)
    with pytest.raises(InputError, match="none has 16 frames"):
        pool.draw(Place(0), seed=0, frames=16, clip_frames=16)
    with pytest.raises(InputError, match="one of the wanted sizes"):
        pool.draw(Place(0), seed=0, frames=16, clip_frames=2, sizes=[(99, 99)])
    with pytest.raises(InputError, match="have none of 8 x 8"):
        pool.sample((8, 8), 1)
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"broken")
    with pytest.raises(InputError, match="remove the file and encode again"):
        LatentPool(tmp_path).draw(Place(0), seed=0, frames=4, clip_frames=2)


def test_data_sets_are_encoded_once(roots, tmp_path, capsys):
    words = [
        "data",
        "encode",
        str(roots / "clips"),
        str(roots / "spring"),
        "--out",
        str(tmp_path / "pool"),
        "--model",
        "tiny",
    ]
    words += ["--windows", "6", "--frames", "2", "--size", "32", "48", "--device", "cpu"]
    assert main(words) == 0
    pool = LatentPool(tmp_path / "pool")
    draw = pool.draw(Place(0), seed=0, frames=8, clip_frames=2)
    assert set(draw) == {"rgb", "points", "ray_direction", "ray_moment", "disparity", "features", "frame_index", "fps"}
    assert draw["points"].shape == (4, 4, 2, 4, 6) and draw["points"].isfinite().all()
    assert main([*words, "--windows", "0"]) == 2
    assert "1 or more" in capsys.readouterr().err


def test_too_many_broken_windows_stop_the_encoding(roots, tmp_path, capsys):
    write_folder(tmp_path / "bad")
    (tmp_path / "bad" / "00000" / "rgb.mp4").write_bytes(b"no film")
    words = [
        "data",
        "encode",
        str(tmp_path / "bad"),
        "--out",
        str(tmp_path / "pool"),
        "--model",
        "tiny",
        "--frames",
        "2",
    ]
    assert main([*words, "--windows", "4", "--size", "32", "48"]) == 2
    message = capsys.readouterr().err
    assert "rgb.mp4" in message and "Traceback" not in message and not list((tmp_path / "pool").glob("*.safetensors"))
