"""Each term alone: nothing at the truth, something off it; and all together against numeric derivatives."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from scenes import FOCAL, W, exact_windows

from geo4d.alignment import AlignmentConfig, Priors
from geo4d.alignment.joint.config import JointConfig
from geo4d.alignment.joint.problem import JointProblem
from geo4d.alignment.joint.solve import assess, solve
from geo4d.alignment.joint.steps import prepare
from geo4d.alignment.joint.terms import Term, build_terms
from geo4d.alignment.joint.terms.base import CAUCHY, acceleration
from geo4d.alignment.joint.terms.points import PointsFixed, look, pixel_mean, point_jacobian
from geo4d.alignment.joint.terms.rays import RaysFixed
from geo4d.alignment.joint.terms.smoothness import SmoothnessFixed, angular_acceleration
from geo4d.alignment.joint.unknowns import Columns
from geo4d.geometry.rigid import rigid
from geo4d.geometry.rotation import so3_exp, so3_log
from geo4d.geometry.similarity import Similarity
from geo4d.solver import banded as linear
from geo4d.solver.banded import NormalEquations
from geo4d.solver.robust import Loss

FRAMES = 12
QUIET = AlignmentConfig(joint=JointConfig(samples=30, smoothness=0.0, rotation_smoothness=0.0), motion=False)


def quiet(focal="shared", **settings):
    """With other settings of the joint solve."""
    return replace(QUIET, focal=focal, joint=replace(QUIET.joint, **settings))


RAYS_AND_DISPARITY = ("ray_direction", "ray_moment", "disparity")
KINDS = {  # of the residuals of each term, but for those that hold the scale of ray cameras
    "points": ("across", "along"),
    "rays": ("ray rotation", "ray centre"),
    "poses": ("given rotation", "given centre"),
    "depth": ("given depth",),
    "smoothness": (),
    "focal": (),
}
NARROW = {"across_loss": Loss(size=1.0), "along_loss": Loss(size=2.0)}
METRES = 2.5  # by unit of the scene, of given poses and depth
ELSEWHERE = rigid(
    so3_exp(torch.tensor([0.2, -0.7, 0.3], dtype=torch.float64)), torch.tensor([4.0, 1.0, -2.0], dtype=torch.float64)
)


def given_poses(poses):
    """The true cameras in metres and in a world of their own."""
    metric = np.array(poses)
    metric[:, :3, 3] *= METRES
    return ELSEWHERE.numpy() @ metric


def problem_with_truth(config=QUIET, *, kinds=("poses", "depth"), frames=FRAMES, noise=0.0, every=1):
    """Every modality and kind of prior; and the unknowns at which all of them agree.

    With `every` 2 no windows share a frame.
    """
    predictions, (depth, poses) = exact_windows(frames, length=6, stride=3, noise=noise)
    chosen = {
        name: getattr(predictions, name)[::every] for name in ("windows", "points", "weight", *RAYS_AND_DISPARITY)
    }
    predictions = replace(predictions, **chosen)
    priors = Priors(
        cam_to_world=given_poses(poses) if "poses" in kinds else None,
        pose_turn_sigma_deg=0.3,
        pose_centre_sigma=0.02,
        depth=METRES * depth if "depth" in kinds else None,
        poses_are_metric="one_scale" in kinds,
    )
    ready = prepare(predictions, config, priors)
    problem = ready.problem()
    true = torch.from_numpy(poses)
    first = true[predictions.windows[:, 0]]
    size = 1.5 + 0.4 * every * torch.arange(len(first), dtype=torch.float64)
    windows = Similarity(size, first[:, :3, :3], first[:, :3, 3])
    back = torch.linalg.inv(ELSEWHERE)
    placed = Similarity(torch.tensor([1 / METRES], dtype=torch.float64), back[None, :3, :3], back[None, :3, 3] / METRES)
    unknowns = replace(
        ready.start,
        rotation=true[:, :3, :3],
        centre=true[:, :3, 3],
        windows=windows,
        rays=windows,
        log_focal=torch.full((frames,), FOCAL / W, dtype=torch.float64).log(),
        poses=placed if "poses" in kinds else None,
        log_depth_scale=-float(np.log(METRES)) if "depth" in kinds else 0.0,
    )
    return replace(problem, log_focal=unknowns.log_focal, ray_log_scale=size.log()), unknowns


@dataclass(frozen=True)
class Terms:
    """The terms of a problem, each with scales and losses that do not depend on its residuals."""

    problem: JointProblem
    pairs: tuple[tuple[Term, Any], ...]

    @classmethod
    def plain(cls, problem, **losses):
        """All terms; `losses` are those of the points."""
        o, one = problem.observations, torch.tensor(1.0, dtype=torch.float64)
        unit = torch.linspace(0.5, 1, len(o.windows), dtype=torch.float64)
        fixed = {
            "points": PointsFixed(0.01 * one, 0.02 * one, o.weight, 0.01 * one, **{**NARROW, **losses}),
            "rays": RaysFixed(0.01 * one, 0.03 * one, unit),
            "smoothness": SmoothnessFixed(0.05 * one, 0.04 * one),
        }
        return cls(problem, tuple((term, fixed.get(term.name)) for term in build_terms(problem)))

    def alone(self, name):
        """One of them."""
        return Terms(self.problem, tuple(pair for pair in self.pairs if pair[0].name == name))

    def rows(self, unknowns):
        """Of all of them."""
        return [rows for term, fixed in self.pairs for rows in term.rows(unknowns, fixed)]

    def cost(self, unknowns):
        """The robust cost of all of them."""
        return float(sum(rows.cost() for rows in self.rows(unknowns)))

    def residuals(self, unknowns):
        """Each kind by its name."""
        found = {}
        for term, fixed in self.pairs:
            found |= {
                name: rows.residual for name, rows in zip(KINDS[term.name], term.rows(unknowns, fixed), strict=False)
            }
        return found

    def written(self, unknowns):
        """The normal equations."""
        columns, o = self.problem.columns(), self.problem.observations
        system = Written(columns.structure(o.windows, o.nearest_window))
        for term, fixed in self.pairs:
            for block in term.blocks(unknowns, fixed):
                system.add(block.columns, block.matrix, block.gradient)
        return system

    def settled(self, unknowns):
        """With the weights of the eliminated depths that belong to the residuals."""
        weight = self.problem.observations.weight
        (term, fixed), *others = self.pairs
        for _ in range(60):
            square = (term.along(unknowns, fixed) / fixed.along).square()
            fixed = replace(fixed, mean_weight=weight * fixed.along_loss.weight(square))
        return Terms(self.problem, ((term, fixed), *others))

    def numeric_gradient(self, unknowns, h=1e-6):
        """Half the cost's derivative by every unknown, the weights of the eliminated depths held."""
        columns = self.problem.columns()
        result = torch.zeros(columns.size, dtype=torch.float64)
        for k in range(columns.size):
            step = torch.zeros(columns.size, dtype=torch.float64)
            step[k] = h
            ends = [self.cost(unknowns.moved(columns, sign * step)) for sign in (1, -1)]
            result[k] = (ends[0] - ends[1]) / (4 * h)
        return result


class Written(NormalEquations):
    """Normal equations that are also written out as one matrix."""

    def __init__(self, structure):
        super().__init__(structure)
        self.matrix = torch.zeros(structure.size, structure.size, dtype=torch.float64)
        self.pull = torch.zeros(structure.size, dtype=torch.float64)

    def add(self, columns, blocks, gradient):
        super().add(columns, blocks, gradient)
        rows, across = torch.broadcast_tensors(columns[..., :, None], columns[..., None, :])
        self.matrix.index_put_((rows, across), blocks, accumulate=True)
        self.pull.index_put_((columns,), gradient, accumulate=True)


def random_step(problem, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(problem.columns().size, generator=generator, dtype=torch.float64)


def test_every_residual_is_nothing_at_the_truth():
    problem, truth = problem_with_truth()
    terms = Terms.plain(problem)
    residuals = terms.residuals(truth)
    assert set(residuals) == {
        "across",
        "along",
        "ray rotation",
        "ray centre",
        "given rotation",
        "given centre",
        "given depth",
    }
    for name, residual in residuals.items():
        assert float(residual.abs().max()) < 1e-6, name
    assert terms.cost(truth) < 1e-6


def moved_by(problem, truth, columns_of, amount=0.02):
    columns = problem.columns()
    step = torch.zeros(columns.size, dtype=torch.float64)
    step[columns_of(columns)] = amount
    return truth.moved(columns, step)


ONE = torch.tensor([4])
OFF = {
    "a camera rotated": (
        lambda c: c.camera(ONE)[0, :3],
        {"across", "along", "ray rotation", "given rotation", "given depth"},
    ),
    "a camera shifted": (
        lambda c: c.camera(ONE)[0, 3:],
        {"across", "along", "ray centre", "given centre", "given depth"},
    ),
    "a window scaled": (lambda c: c.window(ONE - 3)[0, 0], {"across", "along", "given depth"}),
    "a window rotated": (lambda c: c.window(ONE - 3)[0, 1:4], {"across", "along", "given depth"}),
    "a window shifted": (lambda c: c.window(ONE - 3)[0, 4:], {"across", "along", "given depth"}),
    "rays scaled": (lambda c: c.ray(ONE - 3)[0, 0], {"ray centre"}),
    "rays rotated": (lambda c: c.ray(ONE - 3)[0, 1:4], {"ray rotation", "ray centre"}),
    "rays shifted": (lambda c: c.ray(ONE - 3)[0, 4:], {"ray centre"}),
    "the focal length": (lambda c: c.focal(ONE)[0], {"across"}),
    "given poses scaled": (lambda c: c.poses[0], {"given centre"}),
    "given poses rotated": (lambda c: c.poses[1:4], {"given rotation", "given centre"}),
    "given poses shifted": (lambda c: c.poses[4:], {"given centre"}),
    "given depth scaled": (lambda c: c.depth, {"given depth"}),
}


@pytest.mark.parametrize("name", OFF)
def test_off_the_truth_the_residuals_that_are_concerned_rise_and_no_others(name):
    problem, truth = problem_with_truth()
    columns_of, concerned = OFF[name]
    off = moved_by(problem, truth, columns_of)
    terms = Terms.plain(problem)
    risen = {residual for residual, values in terms.residuals(off).items() if float(values.abs().max()) > 1e-4}
    # a camera's own rotation or shift is the same for all windows that see it: their depths move together
    assert concerned - {"along"} <= risen <= concerned
    assert terms.cost(off) > 1e-3


def test_a_depth_that_one_window_alone_sees_has_no_residual_along_the_ray():
    problem, truth = problem_with_truth()
    o = problem.observations
    off = moved_by(problem, truth, lambda c: c.window(torch.tensor([0, 1, 2])).flatten())
    along = Terms.plain(problem).residuals(off)["along"][..., 0]
    alone = torch.bincount(o.windows.flatten())[o.windows] == 1
    assert along[alone].abs().max() < 1e-12 < 1e-4 < along[~alone].abs().min(dim=-1).values.max()
    # the mean that is taken out is the weighted one
    generator = torch.Generator().manual_seed(0)
    weight = torch.rand(o.weight.shape, generator=generator, dtype=torch.float64)
    log_z = look(o, off).log_z
    mean = pixel_mean(o, log_z, weight)
    for frame in (0, 4, 7):
        rows = o.windows == frame
        expected = (weight[rows] * log_z[rows]).sum(0) / weight[rows].sum(0)
        torch.testing.assert_close(mean[frame], expected)


def scale_along(problem, unknowns, **changed):
    """Of the residuals along rays, by observations of which something is changed."""
    changed = replace(problem, observations=replace(problem.observations, **changed))
    (term,) = (term for term in build_terms(changed) if term.name == "points")
    return float(term.fix(unknowns, None).along)


def test_the_scale_along_rays_is_of_pixels_that_several_windows_see():
    problem, truth = problem_with_truth(noise=0.01)
    o = problem.observations
    alone = (torch.bincount(o.windows.flatten())[o.windows] == 1)[..., None].expand_as(o.weight)
    even, uneven = (
        torch.ones_like(o.weight),
        torch.rand(o.weight.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
    )
    log_z = look(o, truth).log_z
    rounding = (log_z - pixel_mean(o, log_z, uneven)[o.windows])[alone]
    assert 0 < float(rounding.abs().max()) < 1e-14  # a weighted mean of one value is not quite that value
    expected = float((log_z - pixel_mean(o, log_z, even)[o.windows])[~alone].abs().median())
    assert expected > 1e-3
    for weight in (even, torch.where(alone, uneven, 1.0)):
        assert scale_along(problem, truth, weight=weight) == expected
    # nor of those that none sees: what is there in their place means nothing
    unseen = torch.zeros_like(o.weight, dtype=torch.bool)
    unseen[:, :, ::3] = True
    kept = (log_z - pixel_mean(o, log_z, even)[o.windows])[~alone & ~unseen]
    weight, points = torch.where(unseen, 0.0, even), o.points.masked_fill(unseen[..., None], 0.0)
    assert scale_along(problem, truth, weight=weight, points=points) == float(kept.abs().median())


def test_pixels_without_weight_cost_nothing():
    problem, truth = problem_with_truth()
    o = problem.observations
    weight, points = o.weight.clone(), o.points.clone()
    weight[:, :, ::3], points[:, :, ::3] = 0, 1e3
    assert problem.given.log_depth is not None
    terms = Terms.plain(replace(problem, observations=replace(o, weight=weight, points=points)))
    assert terms.residuals(truth)["across"][:, :, ::3].abs().max() > 1e-2  # they are off indeed
    assert terms.cost(truth) < 1e-6
    assert terms.written(truth).pull.abs().max() < 1e-2


def test_unknown_given_depth_costs_nothing():
    problem, truth = problem_with_truth()
    log_depth = problem.given.log_depth.clone()
    log_depth[:, ::2] = torch.nan
    partly = replace(problem, given=replace(problem.given, log_depth=log_depth))
    off = moved_by(problem, truth, lambda c: c.depth)
    parts = []
    for terms in (Terms.plain(problem), Terms.plain(partly)):
        assert all(bool(values.isfinite().all()) for values in terms.residuals(off).values())
        parts.append(terms.cost(off))
    assert parts[1] == pytest.approx(parts[0] / 2, rel=1e-3)
    assert bool(Terms.plain(partly).written(off).matrix.isfinite().all())


def smoothness_alone(problem, unknowns, **settings):
    """What the smoothness adds to the cost."""
    configs = problem.config, replace(problem.config, **settings)
    totals = [Terms.plain(replace(problem, config=config)).cost(unknowns) for config in configs]
    return totals[1] - totals[0]


def test_smoothness_is_nothing_for_a_steady_camera_and_something_for_a_jerk():
    problem, truth = problem_with_truth()
    t = torch.arange(FRAMES, dtype=torch.float64)[:, None]
    rotation, move = (
        torch.tensor([0.02, -0.05, 0.01], dtype=torch.float64),
        torch.tensor([0.2, 0.1, -0.05], dtype=torch.float64),
    )
    steady = replace(truth, rotation=so3_exp(t * rotation), centre=t * move)
    assert smoothness_alone(problem, steady, smoothness=1.0, rotation_smoothness=1.0) < 1e-9
    jerk = moved_by(problem, steady, lambda c: c.camera(ONE)[0, 3:])
    assert (
        smoothness_alone(problem, jerk, smoothness=1.0) > 1e-2
        and smoothness_alone(problem, jerk, rotation_smoothness=1.0) < 1e-9
    )
    twist = moved_by(problem, steady, lambda c: c.camera(ONE)[0, :3])
    assert (
        smoothness_alone(problem, twist, rotation_smoothness=1.0) > 1e-2
        and smoothness_alone(problem, twist, smoothness=1.0) < 1e-9
    )
    accelerated = replace(steady, centre=0.5 * t.square() * move)
    torch.testing.assert_close(acceleration(accelerated.centre), move.expand(FRAMES - 2, 3))
    assert angular_acceleration(accelerated.rotation).abs().max() < 1e-9


def test_a_smaller_world_does_not_count_as_smoother():
    problem, truth = problem_with_truth()
    small = replace(truth, centre=0.1 * truth.centre, windows=replace(truth.windows, scale=0.1 * truth.windows.scale))
    usual = smoothness_alone(problem, truth, smoothness=1.0)
    assert usual > 1e-4
    assert smoothness_alone(problem, small, smoothness=1.0) == pytest.approx(usual, rel=1e-6)


GRADIENTS = {
    "points and rays": (QUIET, ()),
    "poses": (QUIET, ("poses",)),
    "depth": (QUIET, ("depth",)),
    "poses and depth": (QUIET, ("poses", "depth")),
    "poses and depth of one scale": (QUIET, ("poses", "depth", "one_scale")),
    "a smooth path": (quiet(smoothness=1.0), ()),
    "a zoom": (replace(QUIET, focal="per_frame"), ("poses", "depth")),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_the_gradient_is_the_derivative_of_the_cost(name):
    config, kinds = GRADIENTS[name]
    problem, truth = problem_with_truth(config, kinds=kinds, frames=9, noise=0.01)
    unknowns = truth.moved(problem.columns(), random_step(problem, 0.02))
    terms = Terms.plain(problem, across_loss=Loss(-1.0, 1.5), along_loss=Loss(1.0, 0.8)).settled(unknowns)
    expected = terms.numeric_gradient(unknowns)
    system = terms.written(unknowns)
    torch.testing.assert_close(system.pull, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    torch.testing.assert_close(system.gradient[system.structure.place], system.pull)


def test_the_gradient_of_the_rotations_smoothness_is_nearly_that_of_the_cost():
    problem, truth = problem_with_truth(quiet(rotation_smoothness=1.0), kinds=())
    unknowns = truth.moved(problem.columns(), random_step(problem, 0.01))
    terms = Terms.plain(problem).alone("smoothness")  # that of the centres has no weight
    expected, found = terms.numeric_gradient(unknowns), terms.written(unknowns).pull
    assert float((found - expected).norm()) < 0.05 * float(expected.norm())


@pytest.mark.parametrize("name", GRADIENTS)
def test_at_the_truth_the_matrix_is_the_cost_s_curvature(name):
    config, kinds = GRADIENTS[name]
    config = replace(config, joint=replace(config.joint, smoothness=0.0))
    problem, truth = problem_with_truth(config, kinds=kinds, frames=9)
    terms = Terms.plain(problem)
    matrix = terms.written(truth).matrix
    torch.testing.assert_close(matrix, matrix.T)
    for seed in range(4):
        step = random_step(problem, 1e-5, seed)
        if seed < 2:  # mostly still, so that what is weak is not drowned
            step = step * (torch.rand(len(step), generator=torch.Generator().manual_seed(seed)) < 0.1)
        found = terms.cost(truth.moved(problem.columns(), step))
        assert found == pytest.approx(float(step @ matrix @ step), rel=0.01)


@pytest.mark.parametrize("kinds", [(), ("poses", "depth"), ("poses", "depth", "one_scale")])
@pytest.mark.parametrize(("focal", "every"), [("shared", 1), ("shared", 2), ("per_frame", 1), ("per_frame", 2)])
def test_the_band_holds_all_that_the_terms_couple(focal, every, kinds, monkeypatch):
    monkeypatch.setattr(linear, "DENSE_UP_TO", 0)
    config = quiet(samples=16, smoothness=0.1, rotation_smoothness=0.7, focal=focal)
    problem, truth = problem_with_truth(config, kinds=kinds, frames=60, noise=0.01, every=every)
    unknowns = truth.moved(problem.columns(), random_step(problem, 0.003))
    system = Terms.plain(problem).written(unknowns)
    structure = system.structure
    assert not structure.is_dense
    main = structure.size - structure.border
    met = torch.nonzero(system.matrix)
    met = structure.place[met[(structure.place[met] < main).all(dim=1)]]
    assert int((met[:, 0] - met[:, 1]).abs().max()) <= structure.bandwidth
    free = torch.ones(structure.size, dtype=torch.bool)
    free[:6], free[6 * 60] = False, False
    damping = 1e-3
    diagonal = system.matrix.diagonal()
    ridge = damping * diagonal.clamp_min(1e-9 * float(diagonal.max()))  # what no evidence holds is damped all the same
    damped = (system.matrix + ridge.diag())[free][:, free]
    step = system.step(damping, free)
    # by what is left over, not by the step itself: windows that share no frame are held together weakly
    left = damped @ step[free] + system.pull[free]
    assert bool((left.abs() <= 1e-8 * (damped.abs() @ step[free].abs() + system.pull[free].abs())).all())
    assert not step[~free].any()


@pytest.mark.parametrize("length", [1, 2, 3, 5])
@pytest.mark.parametrize("zooms", [False, True])
def test_the_band_holds_what_smoothness_couples_where_windows_do_not(length, zooms):
    frames = 60
    windows = torch.arange(frames).reshape(-1, length)  # no two share a frame
    nearest = torch.arange(frames) // length
    c = Columns(frames, len(windows), has_rays=True, zooms=zooms)
    structure = c.structure(windows, nearest)
    for k in range(frames - 2):
        some = torch.arange(k, k + 3)
        groups = [torch.cat([c.camera(some).flatten(), c.window(nearest[some[1:2]])[0]])]
        groups += [c.focal(some)] if zooms else []
        groups.append(torch.cat([c.camera(some[:1])[0], c.window(nearest[some[:1]])[0]]))
        groups.append(torch.cat([c.camera(some[:1])[0], c.ray(nearest[some[:1]])[0]]))
        for group in groups:
            place = structure.place[group]
            assert int(place.max() - place.min()) <= structure.bandwidth


def test_every_unknown_has_one_column():
    for kinds in ((), ("poses",), ("depth",), ("poses", "depth"), ("poses", "depth", "one_scale")):
        for focal in ("shared", "per_frame"):
            problem, _ = problem_with_truth(replace(QUIET, focal=focal), kinds=kinds, frames=9)
            c, o = problem.columns(), problem.observations
            frames, windows = torch.arange(9), torch.arange(len(o.windows))
            used = [
                c.camera(frames).flatten(),
                c.window(windows).flatten(),
                c.ray(windows).flatten(),
                c.focal(frames).unique(),
            ]
            if "poses" in kinds:
                used.append(c.poses)
            if "depth" in kinds and "one_scale" not in kinds:
                used.append(torch.tensor([c.depth]))
            assert torch.cat(used).tolist() == list(range(c.size))
    assert c.depth == int(c.poses[0])  # one scale for both


def difference(a, b):
    """Largest change of anything that is solved for."""
    pairs = [(a.rotation, b.rotation), (a.centre, b.centre), (a.log_focal, b.log_focal)]
    for x, y in ((a.windows, b.windows), (a.rays, b.rays), (a.poses, b.poses)):
        pairs += [(x.scale, y.scale), (x.rotation, y.rotation), (x.translation, y.translation)]
    return max(abs(a.log_depth_scale - b.log_depth_scale), *(float((x - y).abs().max()) for x, y in pairs))


def test_a_step_back_undoes_a_step():
    problem, truth = problem_with_truth(replace(QUIET, focal="per_frame"))
    columns, step = problem.columns(), random_step(problem, 0.3)
    there = truth.moved(columns, step)
    assert difference(truth.moved(columns, torch.zeros_like(step)), truth) == 0
    assert difference(there, truth) > 0.3
    assert difference(there.moved(columns, -step), truth) < 1e-12
    identity = torch.eye(3, dtype=torch.float64)
    for rotation in (there.rotation, there.windows.rotation, there.rays.rotation, there.poses.rotation):
        torch.testing.assert_close(rotation @ rotation.mT, identity.expand_as(rotation))
    rotated = so3_log(there.rotation @ truth.rotation.mT)
    torch.testing.assert_close(rotated, step[columns.camera(torch.arange(FRAMES))][:, :3])
    torch.testing.assert_close(
        (there.windows.scale / truth.windows.scale).log(), step[columns.window(torch.arange(3))][:, 0]
    )
    torch.testing.assert_close(there.log_focal - truth.log_focal, step[columns.focal(torch.arange(FRAMES))])


def test_derivatives_of_points_are_those_of_the_retraction():
    problem, truth = problem_with_truth(kinds=())
    columns, o = problem.columns(), problem.observations
    unknowns = truth.moved(columns, random_step(problem, 0.05))
    frame, window, place = torch.tensor([4]), torch.tensor([[1]]), int(torch.nonzero(o.windows[1] == 4))
    own = torch.cat([columns.camera(frame), columns.focal(frame)[:, None], columns.window(window[0])], dim=1)[0]

    def residuals(u):
        seen = look(o, u)
        return torch.cat([seen.across[1, place], seen.log_z[1, place, :, None]], dim=-1)

    seen = look(o, unknowns)
    jacobian = point_jacobian(
        unknowns, seen.local[1, place][None, None], seen.world[1, place][None, None], frame, window
    )[0, 0]
    for k, column in enumerate(own.tolist()):
        step = torch.zeros(columns.size, dtype=torch.float64)
        step[column] = 1e-6
        slope = (residuals(unknowns.moved(columns, step)) - residuals(unknowns.moved(columns, -step))) / 2e-6
        torch.testing.assert_close(jacobian[..., k], slope, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kinds", [(), ("poses",), ("depth",), ("poses", "depth", "one_scale")])
def test_the_solve_finds_its_way_back_to_the_truth(kinds):
    config = quiet(smoothness=1e-3, rotation_smoothness=1e-3)
    problem, truth = problem_with_truth(config, kinds=kinds)
    columns = problem.columns()
    step = random_step(problem, 0.01)
    step[columns.camera(torch.zeros(1, dtype=torch.int64))] = 0  # the world
    step[columns.window(torch.zeros(1, dtype=torch.int64))[0, 0]] = 0  # and its unit
    solved = solve(problem, truth.moved(columns, step))
    u = solved.unknowns
    assert solved.summary.steps > 1 and solved.summary.converged
    assert (u.centre - truth.centre).norm(dim=-1).max() < 1e-3
    assert so3_log(u.rotation.mT @ truth.rotation).norm(dim=-1).max() < 1e-3
    torch.testing.assert_close(u.windows.scale, truth.windows.scale, rtol=1e-3, atol=0)
    torch.testing.assert_close(u.rays.scale, truth.rays.scale, rtol=1e-2, atol=0)
    assert torch.equal(u.rotation[0], truth.rotation[0]) and torch.equal(u.centre[0], truth.centre[0])
    if "poses" in kinds:
        torch.testing.assert_close(u.poses.scale, truth.poses.scale, rtol=1e-3, atol=0)
    if "depth" in kinds and "one_scale" not in kinds:
        assert u.log_depth_scale == pytest.approx(truth.log_depth_scale, abs=1e-3)


def test_held_unknowns_stay():
    problem, truth = problem_with_truth(kinds=(), noise=0.01)
    columns = problem.columns()
    held = torch.zeros(columns.size, dtype=torch.bool)
    held[columns.camera(torch.tensor([5, 6])).flatten()] = True
    u = solve(problem, truth, held).unknowns
    assert torch.equal(u.centre[5:7], truth.centre[5:7]) and torch.equal(u.rotation[5:7], truth.rotation[5:7])
    assert (u.centre - truth.centre).norm(dim=-1)[1:5].min() > 0


def test_scales_do_not_vanish_where_everything_fits():
    problem, truth = problem_with_truth()
    still = replace(truth, centre=torch.zeros_like(truth.centre), rotation=truth.rotation[:1].expand_as(truth.rotation))
    for unknowns in (truth, still):
        solved = assess(problem, unknowns)
        points, rays, smoothness = (solved.term(name)[1] for name in ("points", "rays", "smoothness"))
        sizes = points.across, points.along, rays.rotation, rays.centre, smoothness.rotation, smoothness.centre
        assert min(float(size) for size in sizes) > 1e-8
        assert np.isfinite(solved.summary.last_cost)
        assert all(bool(rows.cost().isfinite()) for name in KINDS for rows in solved.rows(name))
    assert CAUCHY.value(torch.tensor(0.0)) == 0
