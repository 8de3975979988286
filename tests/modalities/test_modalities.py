"""Every modality comes back from its image; the layout alone knows the slots."""

from dataclasses import replace

import pytest
import torch
from parity import load

from geo4d.errors import ConfigError
from geo4d.geometry.camera import intrinsics_from_focal, pixel_rays_cam
from geo4d.geometry.plucker import fit_centre
from geo4d.geometry.rigid import relative_to_first, transform_points
from geo4d.modalities import make_layout
from geo4d.modalities.holes import without_holes
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
    return Clip(
        rgb, torch.where(valid, depth, 0.0), valid, sky, intrinsics_from_focal(focal, height, width), cam_to_world
    )


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
        clip.rgb,
        torch.zeros_like(clip.depth),
        torch.zeros_like(clip.valid),
        torch.ones_like(clip.sky),
        clip.intrinsics,
        clip.cam_to_world,
    )
    for normalization in ("minmax", "asinh", "mean"):
        images = make_layout(normalization=normalization).encode(empty)
        assert all(image.isfinite().all() for image in images.values())


def known_where(clip: Clip, known: torch.Tensor) -> Clip:
    """The clip with holes, of depth 0, at all other pixels."""
    valid, sky = clip.valid & known, clip.sky & known
    return replace(clip, depth=torch.where(valid, clip.depth, 0.0), valid=valid, sky=sky)


def corner_hole() -> tuple[Clip, torch.Tensor, torch.Tensor]:
    """A clip with a hole in the lower left, the pixels of it nearest to row 5 above it, and the depths there."""
    clip = make_clip()
    known, near = torch.ones_like(clip.valid), torch.zeros_like(clip.valid)
    known[..., 6:, :6], near[..., 6:, :2] = False, True
    return known_where(clip, known), near, clip.depth[..., 5:6, :].expand_as(clip.depth)


@pytest.mark.parametrize("normalization", ["asinh", "mean"])
def test_a_hole_is_taught_the_depth_beside_it_on_its_own_ray(normalization):
    clip, hole, beside = corner_hole()
    layout = make_layout(("points", "disparity"), normalization=normalization)
    fields = layout.decode(layout.encode(clip))
    points_cam = beside[..., None] * pixel_rays_cam(clip.intrinsics, *beside.shape[-2:])
    points_win = transform_points(relative_to_first(clip.cam_to_world), points_cam.flatten(2, 3)).unflatten(
        2, beside.shape[-2:]
    )
    expected = points_win / window_scale(clip, normalization)[0][:, None, None, None, None]
    torch.testing.assert_close(fields["points"][hole], expected[hole].float(), atol=2e-5, rtol=2e-5)
    for b in range(2):
        nearest = clip.depth[b][clip.valid[b]].min()
        torch.testing.assert_close(
            fields["disparity"][b][hole[b]], (nearest / beside[b][hole[b]]).float(), rtol=1e-5, atol=1e-6
        )


def test_minmax_shows_holes_as_the_sky():
    clip, hole, _ = corner_hole()
    assert (make_layout(("points",)).encode(clip)["points"].movedim(2, -1)[hole] == 1.05).all()


def test_what_is_known_is_shown_as_ever():
    clip, _, _ = corner_hole()
    filled = without_holes(clip)
    assert filled.valid is clip.valid and torch.equal(filled.sky, clip.sky)
    assert torch.equal(filled.depth[clip.valid], clip.depth[clip.valid]) and (filled.depth[~clip.sky] > 0).all()
    assert without_holes(filled_in := replace(filled, valid=~filled.sky)) is filled_in


def test_a_frame_of_which_nothing_is_known_is_shown_as_sky():
    clip = make_clip()
    known = torch.ones_like(clip.valid)
    known[1, 2] = False
    same, dark = replace(clip, sky=clip.sky | ~known, valid=clip.valid & known), known_where(clip, known)
    for normalization in ("minmax", "asinh", "mean"):
        layout = make_layout(normalization=normalization)
        images, others = layout.encode(dark), layout.encode(same)
        assert all(torch.equal(images[name], others[name]) for name in layout.image_names)
        assert (layout.decode(images)["weight"][1, 2] == 0).all() and (
            layout.decode(images)["disparity_weight"][1, 2] == 0
        ).all()


def test_a_clip_without_holes_is_encoded_bit_for_bit_as_before():
    """The images of one window, whose every pixel is known, as the formulas of method 2 say."""
    clip = make_clip()
    clip = replace(clip, valid=~clip.sky, depth=torch.where(clip.sky, 0.0, clip.depth.clamp_min(2.0)))
    disparity = torch.where(clip.valid, 1 / clip.depth.clamp_min(1e-6), 0.0)
    high = disparity.flatten(1).amax(dim=1)[:, None, None, None]
    images = make_layout(normalization="asinh").encode(clip)
    assert torch.equal(images["disparity"][:, :, 1], 2 * disparity / high - 1)
    assert all(torch.equal(images["points"], own) for own in PointsModality("asinh").encode(clip).values())
