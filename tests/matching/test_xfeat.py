"""XFeat: its weights, what it matches, what it must not match, and what is done without it."""

import cv2
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from geo4d.config import load_config
from geo4d.errors import CheckpointError, ConfigError
from geo4d.evaluation.demo import demo_video
from geo4d.io.video import read_video
from geo4d.matching import xfeat
from geo4d.matching.features import (
    FeatureConfig,
    detect,
    image_descriptor,
    match_features,
    unit_descriptors,
    uses_xfeat,
    vocabulary,
)

CONFIG = FeatureConfig(kind="xfeat")
SIFT = FeatureConfig(kind="sift")
WARP = np.float64([[1.1, -0.15, 12], [0.12, 1.05, -9]])


@pytest.fixture(scope="module")
def picture():
    """A frame of the demo, grey, enlarged."""
    frame = read_video(demo_video(), resize=lambda height, width: (height, width)).frames[0]
    return cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), (480, 360), interpolation=cv2.INTER_CUBIC)


def matched(first, second, config):
    return match_features(detect(first, config), detect(second, config), first.shape, second.shape, config)


def test_a_warped_picture_is_matched_where_it_is(picture):
    target = cv2.warpAffine(picture, WARP, (480, 360), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    matches = matched(picture, target, CONFIG)
    error = np.linalg.norm(matches.source @ WARP[:, :2].T + WARP[:, 2] - matches.target, axis=1)
    assert len(error) > 100
    assert np.mean(error < 1.5) > 0.5 and np.mean(error < 2.5) > 0.75


def test_a_blurred_turn_is_matched_by_more_than_sift_finds(picture):
    """A head that turns: the picture shifts by a third and is smeared along."""
    moved = cv2.warpAffine(picture, np.float64([[1, 0, 150], [0.02, 1, 5]]), (480, 360))
    smeared = cv2.blur(moved, (15, 1))
    ours, sift = matched(picture, smeared, CONFIG), matched(picture, smeared, SIFT)
    assert ours is not None
    assert len(ours.source) > 2 * (0 if sift is None else len(sift.source))


@pytest.mark.parametrize("size", [(360, 480), (240, 426), (97, 33), (20, 400)])
def test_features_lie_in_the_image_and_have_length_one(picture, size):
    features = detect(cv2.resize(picture, size[::-1]), CONFIG)
    assert features.descriptor.dtype == np.float16 and features.descriptor.shape[1] == xfeat.XFEAT_SIZE
    assert (features.position >= -0.5).all() and (features.position <= np.array(size[::-1]) - 0.5).all()
    np.testing.assert_allclose(np.linalg.norm(unit_descriptors(features), axis=1), 1, atol=2e-3)
    assert len(features.position) <= CONFIG.max_features


def test_the_same_image_gives_the_same_features(picture):
    first, second = detect(picture, CONFIG), detect(picture.copy(), CONFIG)
    assert len(first.position) > 200
    assert np.array_equal(first.position, second.position) and np.array_equal(first.descriptor, second.descriptor)


def another(kind, picture):
    rng = np.random.default_rng(5)
    return {
        "noise": rng.integers(0, 256, picture.shape, dtype=np.uint8),
        "empty": np.full_like(picture, 90),
        "squares": (60 + 120 * (np.add.outer(np.arange(360) // 12, np.arange(480) // 12) % 2)).astype(np.uint8),
        "upside down": np.ascontiguousarray(picture[::-1]),
    }[kind]


@pytest.mark.parametrize("kind", ["noise", "empty", "squares", "upside down"])
def test_other_images_do_not_match(picture, kind):
    assert matched(picture, another(kind, picture), CONFIG) is None


@pytest.mark.parametrize("kind", ["noise", "empty", "squares"])
def test_what_shows_no_place_does_not_match_what_is_like_it(picture, kind):
    """Shifted squares lie as well on others; noise and an even wall have nothing to go by."""
    first = another(kind, picture)
    second = np.roll(first, 5, axis=1) if kind == "squares" else first[:, ::-1].copy()
    assert matched(first, second, CONFIG) is None


def test_whole_images_are_most_like_themselves(picture):
    images = [detect(part, CONFIG) for part in (picture[:200, :240], picture[160:, :240], picture[:, 240:])]
    words = vocabulary(images[0], 16)
    vectors = np.stack([image_descriptor(features, words) for features in images])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (vectors @ vectors.T).argmax(axis=1).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "settings", [{"xfeat_ratio": 0.0}, {"xfeat_ratio": 1.1}, {"min_cosine": 1.0}, {"min_cosine": -2.0}]
)
def test_settings_that_cannot_work(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        FeatureConfig(**settings)


def test_a_kind_that_is_not_there_is_refused():
    assert load_config(FeatureConfig, overrides=["kind=sift"]).kind == "sift"
    with pytest.raises(ConfigError, match="kind"):
        load_config(FeatureConfig, overrides=["kind=orb"])


def test_without_weights_only_auto_is_sift(picture, monkeypatch, tmp_path):
    assert uses_xfeat(FeatureConfig()) and not detect(picture, FeatureConfig()).is_sift
    monkeypatch.setattr(xfeat, "WEIGHTS", tmp_path / "none.safetensors")
    assert not uses_xfeat(FeatureConfig())
    found, wanted = detect(picture, FeatureConfig()), detect(picture, SIFT)
    assert found.is_sift and np.array_equal(found.descriptor, wanted.descriptor)
    with pytest.raises(CheckpointError, match=r"cannot be read .* install geo4d again"):
        detect(picture, CONFIG)


def broken(kind, path):
    tensors = load_file(xfeat.WEIGHTS)
    name = "block1.0.layer.0.weight"
    if kind == "no safetensors":
        path.write_bytes(b"not weights")
    elif kind == "cut short":
        path.write_bytes(xfeat.WEIGHTS.read_bytes()[:100_000])
    else:
        changed = {
            "missing": {},
            "another shape": {name: tensors[name][:2].contiguous()},
            "not finite": {name: tensors[name] / 0},
            "whole numbers": {name: tensors[name].int()},
            "left over": {name: tensors[name], "extra": tensors[name].clone()},
        }[kind]
        save_file({key: value for key, value in tensors.items() if key != name} | changed, path)


@pytest.mark.parametrize(
    "kind", ["no safetensors", "cut short", "missing", "another shape", "not finite", "whole numbers", "left over"]
)
@pytest.mark.parametrize("config", [CONFIG, FeatureConfig()], ids=["xfeat", "auto"])
def test_broken_weights_are_refused(picture, monkeypatch, tmp_path, kind, config):
    """Not even "auto" takes SIFT for them: the installation is broken, and says so."""
    broken(kind, tmp_path / "xfeat.safetensors")
    monkeypatch.setattr(xfeat, "WEIGHTS", tmp_path / "xfeat.safetensors")
    with pytest.raises(CheckpointError, match="install geo4d again") as error:
        detect(picture, config)
    assert "\n" not in str(error.value)


def test_the_weights_are_half_precision_and_small():
    assert xfeat.WEIGHTS.stat().st_size < 3.2e6
    assert {str(value.dtype) for value in load_file(xfeat.WEIGHTS).values()} == {"torch.float16"}
