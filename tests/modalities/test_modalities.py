"""Every modality comes back from its image; the layout alone knows the slots."""

import pytest
import torch
from parity import load

from geo4d.errors import ConfigError
from geo4d.geometry.camera import intrinsics_from_focal
from geo4d.geometry.plucker import fit_centre
from geo4d.modalities import make_layout
from geo4d.modalities.points import PointsModality, points_in_first_camera, window_scale
from geo4d.scene import Clip


def make_clip(*, frames: int = 3, height: int = 9, width: int = 14) -> Clip:
    """Two windows of a bumpy surface seen by a moving camera, with some sky and some holes."""
    generator = torch.Generator().manual_seed(0)
    depth = 2 + 6 * torch.rand(2, frames, height, width, generator=generator, dtype=torch.float64)
    sky = torch.zeros_like(depth, dtype=torch.bool)
    sky[..., :2, :] = True
    hole = torch.zeros_like(sky)
    hole[..., 4, 5] = True
    cam_to_world = torch.eye(4, dtype=torch.float64).repeat(2, frames, 1, 1)
    cam_to_world[..., :3, 3] = torch.randn(2, frames, 3, generator=generator, dtype=torch.float64)
    angle = 0.1 * torch.arange(frames, dtype=torch.float64)
    cam_to_world[..., 0, 0] = cam_to_world[..., 2, 2] = angle.cos()
    cam_to_world[..., 0, 2], cam_to_world[..., 2, 0] = angle.sin(), -angle.sin()
    focal = torch.full((2, frames), 24.0, dtype=torch.float64)
    valid = ~sky & ~hole
    rgb = torch.rand(2, frames, height, width, 3, generator=generator, dtype=torch.float64)
    return Clip(rgb, torch.where(valid, depth, 0.0), valid, sky, intrinsics_from_focal(focal, height, width), cam_to_world)


@pytest.mark.parametrize("normalization", ["minmax", "asinh", "mean"])
def test_points_come_back(normalization):
    clip = make_clip()
    layout = make_layout(("points",), normalization=normalization)
    fields = layout.decode(layout.encode(clip), None)
    scale, shift = window_scale(clip, normalization)
    expected = points_in_first_camera(clip)
    expected[..., 2] -= shift[:, None, None, None]
    expected = expected / scale[:, None, None, None, None]
    torch.testing.assert_close(fields["points"][clip.valid], expected[clip.valid].float(), atol=2e-5, rtol=2e-5)
    assert (fields["weight"][clip.valid] > 0).float().mean() > 0.95  # minmax: far to the side is out of range
    assert (fields["weight"][clip.sky] == 0).all()
    assert fields["points_origin"] == {"minmax": "unknown", "asinh": "camera", "mean": "camera"}[normalization]


def test_minmax_is_the_released_normalization():
    image = make_layout(("points",)).encode(make_clip())["points"]
    clip = make_clip()
    z = image[:, :, 2][clip.valid]
    assert z.min() == pytest.approx(-1) and z.max() == pytest.approx(1)
    assert (image.movedim(2, -1)[clip.sky] == 1.05).all()


@pytest.mark.parametrize(("script", "tolerance"), [("infer_eps0.1", 0.1), ("test_eps0.35", 0.35)])
def test_decoding_is_the_released_one(script, tolerance):
    """Sky, far points, weights and denormalised points of the published scripts."""
    recorded = load("postprocess")
    x = torch.from_numpy(recorded["x"])  # (v, 4, h, w): a point image and the logit of sigma
    sigma = torch.nn.functional.softplus(x[:, 3])
    fields = PointsModality(sky_tolerance=tolerance).decode({"points": x[None, :, :3]}, sigma[None])
    expected = torch.from_numpy(recorded[f"{script}_weight"])[..., 0]
    assert torch.equal(fields["weight"][0] == 0, torch.from_numpy(recorded[f"{script}_invalid"])[..., 0])
    # ours are in units of the points, which are half those of the image
    torch.testing.assert_close(fields["weight"][0] / 2, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fields["points"][0], torch.from_numpy(recorded["denorm"]), atol=1e-6, rtol=1e-6)


def test_point_weight_carries_the_jacobian_of_the_decoding():
    clip = make_clip()
    layout = make_layout(("points",), normalization="asinh")
    image = layout.encode(clip)["points"]
    step = 1e-4
    moved = image.clone()
    moved[:, :, 2] += step
    fields, after = layout.decode({"points": image}), layout.decode({"points": moved})
    true_change = (after["points"] - fields["points"])[..., 2] / step
    ahead = clip.valid & (fields["points"][..., :2].norm(dim=-1) < 0.05 * fields["points"][..., 2])
    assert ahead.any()
    torch.testing.assert_close(1 / fields["weight"][ahead], true_change[ahead], rtol=0.03, atol=0)


def test_disparity_is_an_affine_map_of_inverse_depth_with_the_sky_at_zero():
    clip = make_clip()
    layout = make_layout(("disparity",))
    disparity = layout.decode(layout.encode(clip))["disparity"]
    for b in range(2):
        truth = 1 / clip.depth[b][clip.valid[b]]
        torch.testing.assert_close(disparity[b][clip.valid[b]] * truth.max(), truth.float(), rtol=1e-5, atol=1e-6)
        assert disparity[b][clip.sky[b]].abs().max() < 1e-6


def test_rays_give_the_camera_centres_in_units_of_the_points():
    clip = make_clip()
    layout = make_layout(("points", "rays"), normalization="asinh")
    fields = layout.decode(layout.encode(clip))
    direction, moment = fields["ray_direction"].double(), fields["ray_moment"].double()
    assert (direction * moment).sum(-1).abs().max() < 1e-6
    centres = fit_centre(direction.flatten(2, 3), moment.flatten(2, 3))
    scale, _ = window_scale(clip, "asinh")
    offsets = clip.cam_to_world[..., :3, 3] - clip.cam_to_world[:, :1, :3, 3]
    expected = offsets @ clip.cam_to_world[0, 0, :3, :3] / scale[:, None, None]
    torch.testing.assert_close(centres, expected, atol=1e-5, rtol=1e-5)


def test_layout_order_slots_and_roundtrip():
    layout = make_layout(("disparity", "rays", "points"))
    assert layout.image_names == ("points", "ray_direction", "ray_moment", "disparity")
    latents = torch.randn(2, layout.latent_channels, 3, 2, 2)
    parts = layout.split(latents)
    assert torch.equal(parts["ray_moment"], latents[:, 8:12])
    assert torch.equal(layout.join(parts), latents)


@pytest.mark.parametrize("names", [(), ("points", "points"), ("depth",)])
def test_bad_modalities_are_refused(names):
    with pytest.raises(ConfigError, match="distinct names"):
        make_layout(names)


def test_a_window_without_valid_pixels_encodes_to_finite_images():
    clip = make_clip()
    empty = Clip(
        clip.rgb, torch.zeros_like(clip.depth), torch.zeros_like(clip.valid), torch.ones_like(clip.sky), clip.intrinsics, clip.cam_to_world
    )
    for normalization in ("minmax", "asinh", "mean"):
        images = make_layout(normalization=normalization).encode(empty)
        assert all(image.isfinite().all() for image in images.values())
