"""Normal equations of bundle adjustment and of perspective-n-point against numeric derivatives.

Covariances against simulated noise.
"""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from geo4d.alignment import pnp
from geo4d.alignment.bundle.adjust import DAMPING, camera_covariance, solve_bundle
from geo4d.alignment.bundle.config import BundleConfig
from geo4d.alignment.bundle.evidence import Evidence, State, cost, residuals
from geo4d.alignment.bundle.motion import Motion
from geo4d.alignment.bundle.system import CAMERA, BundleSystem, Free
from geo4d.geometry.rigid import rigid
from geo4d.geometry.rotation import so3_exp, so3_log
from geo4d.solver import schur
from geo4d.solver.robust import Loss

FRAMES, POINTS, LOG_FOCAL = 6, 15, 0.1
SIGMA = 0.01  # of the residuals, by which costs are taken
DEPTH_SIGMA = 0.3


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scene(*, points=POINTS, frames=FRAMES, travels=1.0):
    """A state of steady speed and rotation, and evidence that fits it exactly.

    Every point is seen in all frames but one.
    """
    t = torch.arange(frames, dtype=torch.float64)[:, None]
    centre = travels * t * double([0.15, -0.03, 0.05])
    world = normal(points, 3, seed=1) * double([1.2, 0.9, 0.6]) + double([0.3, 0.0, 4.0])
    state = State(so3_exp(t * double([0.01, 0.03, -0.02])), centre, double([LOG_FOCAL] * frames), world)
    point, frame = torch.arange(points).repeat(frames), torch.arange(frames).repeat_interleave(points)
    seen = point % frames != frame
    point, frame = point[seen], frame[seen]
    none = torch.zeros(len(point), 2, dtype=torch.float64)
    prior_point = torch.arange(points).repeat(2)
    prior_frame = torch.cat([torch.zeros(points), torch.full((points,), frames - 1)]).long()
    nothing = torch.zeros(len(prior_point), dtype=torch.float64)
    evidence = Evidence(
        point, frame, none, prior_point, prior_frame, nothing, torch.full_like(nothing, DEPTH_SIGMA),
        log_focal=LOG_FOCAL, log_focal_sigma=0.2, noise=1e-6, config=BundleConfig(),
    )  # fmt: skip
    r = residuals(evidence, state)
    return replace(evidence, pixel=r.pixel, prior_log_depth=r.prior_local[:, 2].log()), state


def told(evidence, **settings):
    """With other settings."""
    return replace(evidence, config=replace(evidence.config, **settings))


def expected_motion(state, **sigmas):
    """What is expected of the camera, were the state right."""
    rotation = state.rotation[:-1].mT @ state.rotation[1:]
    step = torch.einsum("sji,sj->si", state.rotation[:-1], state.centre.diff(dim=0))
    settings = {"rotation_sigma": 0.02, "step_sigma": 0.05, **sigmas}
    settings = {name: torch.full((len(step),), sigma, dtype=torch.float64) for name, sigma in settings.items()}
    return Motion(rotation, step, loss=Loss.cauchy(2.0), **settings)


def without_observations(evidence):
    """Priors alone."""
    return replace(evidence, point=evidence.point[:0], frame=evidence.frame[:0], pixel=evidence.pixel[:0])


def without_priors(evidence):
    """Observations alone."""
    none = {
        name: getattr(evidence, name)[:0] for name in ("prior_point", "prior_frame", "prior_log_depth", "prior_sigma")
    }
    return replace(evidence, **none)


def system_of(evidence, state, tracks):
    return BundleSystem(evidence, state, SIGMA, tracks, Free(focal="each"))


def gradient_of(system):
    """Of all unknowns: seven a camera, three a point."""
    return torch.cat([torch.from_numpy(system.gradient), system.point_gradient.flatten()])


def matrix_of(system):
    """The whole matrix, written out."""
    cameras, points = torch.from_numpy(system.matrix.toarray()), torch.block_diag(*system.points)
    if system.free.focal == "each":  # what is expected of their mean couples all of them
        frames = len(cameras) // CAMERA
        cameras[CAMERA - 1 :: CAMERA, CAMERA - 1 :: CAMERA] += system.evidence.focal_weight / frames**2
    blocks = torch.zeros(len(cameras) // CAMERA, len(points) // 3, CAMERA, 3, dtype=torch.float64)
    blocks[system.elimination.camera, system.elimination.point] = system.moments.coupling(slice(None))
    coupling = blocks.transpose(1, 2).flatten(0, 1).flatten(1)
    return torch.cat([torch.cat([cameras, coupling], dim=1), torch.cat([coupling.T, points], dim=1)])


def moved(state, step):
    frames = len(state.centre)
    return state.moved(
        step[: CAMERA * frames].unflatten(0, (-1, CAMERA)), step[CAMERA * frames :].unflatten(0, (-1, 3))
    )


def numeric_gradient(function, size, h=1e-6):
    """Half the derivative of a function of a step."""
    steps = h * torch.eye(size, dtype=torch.float64)
    return double([(function(step) - function(-step)) / (4 * h) for step in steps])


def off(state, size=0.01, seed=4):
    count = CAMERA * len(state.centre) + 3 * len(state.points)
    return moved(state, size * normal(count, seed=seed))


SMOOTH = {"centre_smoothness": 30.0}
PARTS = {
    "all observations and depth priors": lambda e, s: e,
    "observations": lambda e, s: without_priors(e),
    "depth priors": lambda e, s: without_observations(e),
    "a firm focal length elsewhere": lambda e, s: replace(e, log_focal=0.2, log_focal_sigma=1e-3),
    "smooth centres": lambda e, s: replace(e, **SMOOTH),
    "keyframes some way apart": lambda e, s: replace(e, gap=double([1, 2, 4, 8, 3])),
    "all but rotations": lambda e, s: replace(
        replace(e, **SMOOTH), prior_sigma=torch.linspace(0.1, 1, len(e.prior_sigma)).double()
    ),
}


@pytest.mark.parametrize("name", PARTS)
def test_the_gradient_is_half_the_derivative_of_the_cost(name):
    evidence, truth = scene()
    evidence, state = PARTS[name](evidence, truth), off(truth)
    tracks = torch.rand(POINTS, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = gradient_of(system_of(evidence, state, tracks))
    expected = numeric_gradient(lambda step: cost(evidence, moved(state, step), SIGMA, tracks), len(found))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))
    assert float(expected.abs().max()) > 1e-2


def cameras_alone(evidence):
    """Neither observations nor depth priors, and next to no prior on the focal length."""
    return replace(without_priors(without_observations(evidence)), log_focal_sigma=1e6)


def rotation_and_centre(gradient):
    cameras = gradient[: CAMERA * FRAMES].unflatten(0, (-1, CAMERA))
    return cameras[:, :3], cameras[:, 3:6]


def test_the_gradient_of_smooth_rotations_is_that_of_small_angles():
    evidence, truth = scene()
    evidence, state = replace(cameras_alone(evidence), rotation_smoothness=30.0), off(truth)
    tracks = torch.ones(POINTS, dtype=torch.float64)
    found = gradient_of(system_of(evidence, state, tracks))
    expected = numeric_gradient(lambda step: cost(evidence, moved(state, step), SIGMA, tracks), len(found))
    assert float((found - expected).norm()) < 0.05 * float(expected.norm()) and float(expected.norm()) > 0.1


def test_the_gradient_of_the_expected_motion():
    """Exact by the centres, that of small angles by the rotations.

    How a step rotates with its camera is left out, as is written.
    """
    evidence, truth = scene()
    state, tracks = off(truth), torch.ones(POINTS, dtype=torch.float64)
    for sigmas in ({}, {"step_sigma": 1e4}):
        known = replace(cameras_alone(evidence), motion=expected_motion(truth, **sigmas))
        found = gradient_of(system_of(known, state, tracks))
        expected = numeric_gradient(
            lambda step, known=known: cost(known, moved(state, step), SIGMA, tracks), len(found)
        )
        (rotation, centre), (expected_rotation, expected_centre) = (
            rotation_and_centre(found),
            rotation_and_centre(expected),
        )
        torch.testing.assert_close(centre, expected_centre, rtol=1e-5, atol=1e-6)
    assert float((rotation - expected_rotation).norm()) < 0.05 * float(expected_rotation.norm())
    assert float(expected_rotation.norm()) > 1 and float(rotation.norm()) > 1


TO_ROTATIONS = {
    "smooth rotations": lambda e, s: replace(e, rotation_smoothness=1e4),
    "expected motion of a camera that stays": lambda e, s: replace(e, motion=expected_motion(s)),
}


@pytest.mark.parametrize("name", {**PARTS, **TO_ROTATIONS})
def test_where_all_fits_the_matrix_is_the_cost_s_curvature(name):
    evidence, truth = scene(travels=0.0 if name in TO_ROTATIONS else 1.0)
    evidence = {**PARTS, **TO_ROTATIONS}[name](evidence, truth)
    evidence = replace(evidence, log_focal=LOG_FOCAL)  # it fits
    tracks = torch.rand(POINTS, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    system = system_of(evidence, truth, tracks)
    matrix = matrix_of(system)
    assert cost(evidence, truth, SIGMA, tracks) < 1e-12 and float(gradient_of(system).abs().max()) < 1e-6
    torch.testing.assert_close(matrix, matrix.T)
    for seed in range(6):
        step = 1e-5 * normal(len(matrix), seed=seed)
        if seed % 2:  # cameras alone, so that what is weak is not drowned by the points
            step[CAMERA * FRAMES :] = 0
        found = cost(evidence, moved(truth, step), SIGMA, tracks)
        assert found == pytest.approx(float(step @ matrix @ step), rel=0.02 if name in TO_ROTATIONS else 0.002)


def selection_of(free, frames):
    """(7 t, k) of zeros and ones: which unknowns of the cameras each of the k free ones moves."""
    columns = list(np.eye(CAMERA * frames)[free.is_free(frames).ravel()])
    if free.focal == "shared":
        columns.append(np.tile(np.eye(CAMERA)[-1], frames))
    return torch.from_numpy(np.stack(columns, axis=1))


HELD = torch.arange(FRAMES) == 2


@pytest.mark.parametrize("held", [None, HELD])
@pytest.mark.parametrize("travels", [True, False])
@pytest.mark.parametrize("focal", ["held", "shared", "each"])
def test_a_step_solves_the_damped_system_of_the_free_unknowns(held, travels, focal, monkeypatch):
    """Written out as one dense system, that of the points included."""
    monkeypatch.setattr(schur, "GROUP", 4)  # so that there are several
    evidence, truth = scene()
    evidence, state = replace(replace(evidence, **SMOOTH), motion=expected_motion(truth)), off(truth)
    tracks, damping = torch.ones(POINTS, dtype=torch.float64), 0.01
    free = Free(focal=focal, travels=travels, held=held)
    system = BundleSystem(evidence, state, SIGMA, tracks, free)
    camera, points = system.step(double([damping]))
    step = torch.cat([camera.flatten(), points.flatten()])
    matrix, selection = matrix_of(system), selection_of(free, FRAMES)
    whole = torch.block_diag(selection, torch.eye(3 * POINTS, dtype=torch.float64))
    damped = whole.T @ (matrix + damping * matrix.diagonal().diag()) @ whole
    expected = -whole @ torch.linalg.solve(damped, whole.T @ gradient_of(system))
    torch.testing.assert_close(step, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
    still = selection.sum(1) == 0
    assert not camera.flatten()[still].any() and bool(camera.flatten()[~still].ne(0).all()) and bool(points.ne(0).all())
    fixed = 1 if held is None else 2
    assert int(still.sum()) == (6 * fixed if travels else 3 * (FRAMES + fixed)) + (FRAMES if focal == "held" else 0)
    assert bool((camera[:, 6] == camera[0, 6]).all()) == (focal != "each")


@pytest.mark.parametrize("focal", ["shared", "each"])
def test_covariances_are_blocks_of_the_inverse_written_out(focal):
    evidence, truth = scene()
    tracks = torch.ones(POINTS, dtype=torch.float64)
    system = BundleSystem(evidence, off(truth), SIGMA, tracks, Free(focal=focal))
    found, log_focal_sigma = system.covariance()
    selection = selection_of(system.free, FRAMES)
    whole = torch.block_diag(selection, torch.eye(3 * POINTS, dtype=torch.float64))
    inverse = whole @ torch.linalg.inv(whole.T @ matrix_of(system) @ whole) @ whole.T
    each = inverse[: CAMERA * FRAMES, : CAMERA * FRAMES].reshape(FRAMES, CAMERA, FRAMES, CAMERA)
    expected = torch.stack([each[k, :6, k, :6] for k in range(1, FRAMES)])
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))
    assert log_focal_sigma == pytest.approx(float(each[0, 6, 0, 6].sqrt()), rel=1e-5)


def test_the_solve_finds_its_way_back_with_few_steps():
    evidence, truth = scene()
    evidence = replace(evidence, noise=3e-4)  # without, the scale would fall with every step
    step = 0.01 * normal(CAMERA * FRAMES + 3 * POINTS, seed=5)
    step[: CAMERA * FRAMES].view(FRAMES, CAMERA)[:, 6] = 0.01  # the same for all
    step[:6] = 0  # the world
    found = solve_bundle(evidence, moved(truth, step), iterations=40)
    assert found.summary.converged and found.summary.steps < 25
    # the depth priors hold the unit only weakly, but exactly
    torch.testing.assert_close(found.state.centre, truth.centre, rtol=0, atol=1e-4)
    assert so3_log(found.state.rotation.mT @ truth.rotation).abs().max() < 1e-5


def rotated(state, turn):
    """The same in a world with other axes."""
    return replace(state, rotation=turn @ state.rotation, centre=state.centre @ turn.T, points=state.points @ turn.T)


def test_where_the_world_is_rotated_the_solved_cameras_rotate_along():
    """To where the solve ends: what is expected of the camera's motion is expected in its own axes."""
    evidence, truth = scene()
    motion = expected_motion(off(truth, size=0.05, seed=7), rotation_sigma=1e-3)  # it pulls away from the truth
    evidence = replace(evidence, noise=1e-3, motion=motion, rotation_smoothness=30.0, **SMOOTH)
    turn, start = so3_exp(double([0.7, -1.1, 0.4])), off(truth)
    to_the_end = {"iterations": 300, "damping": replace(DAMPING, enough=1e-14, failures=20)}
    found, other = (solve_bundle(evidence, state, **to_the_end).state for state in (start, rotated(start, turn)))
    expected = rotated(found, turn)
    for name, within in {"rotation": 1e-5, "centre": 1e-5, "log_focal": 1e-5, "points": 1e-4}.items():
        torch.testing.assert_close(getattr(other, name), getattr(expected, name), rtol=0, atol=within)
    assert float(so3_log(found.rotation.mT @ truth.rotation).norm(dim=1).max()) > 1e-3


def test_a_steady_zoom_costs_the_same_by_all_frames_and_by_keyframes():
    """What is expected of the frames between is left out, as a random walk leaves it."""
    evidence, state = scene(frames=9)
    zoom, key = torch.linspace(0, 0.2, 9).double(), torch.tensor([0, 1, 4, 8])
    evidence = replace(cameras_alone(evidence), log_focal=float(zoom.mean()))
    some = {name: getattr(state, name)[key] for name in ("rotation", "centre")}
    keyframes = replace(state, **some, log_focal=zoom[key])
    tracks = torch.ones(POINTS, dtype=torch.float64)
    by_frames = cost(evidence, replace(state, log_focal=zoom), SIGMA, tracks)
    by_keyframes = cost(replace(evidence, gap=key.diff().double()), keyframes, SIGMA, tracks)
    assert by_keyframes == pytest.approx(by_frames, rel=1e-6) and by_frames > 10


def simulated(evidence, truth, sigma, seed):
    """What is seen, and what is known beforehand, each off by what is said of it."""
    return replace(
        evidence,
        pixel=evidence.pixel + sigma * normal(len(evidence.pixel), 2, seed=seed),
        prior_log_depth=evidence.prior_log_depth
        + evidence.prior_sigma * normal(len(evidence.prior_sigma), seed=1000 + seed),
        log_focal=evidence.log_focal + evidence.log_focal_sigma * float(normal(1, seed=2000 + seed)),
    )


def test_covariances_are_those_of_simulated_noise():
    """The sigmas of independent errors, within a factor of two."""
    evidence, truth = scene(points=40, frames=5)
    evidence = replace(evidence, prior_sigma=torch.full_like(evidence.prior_sigma, 0.02), log_focal_sigma=0.005)
    errors, said = [], []
    for seed in range(100):
        noisy = simulated(evidence, truth, 3e-4, seed)
        solution = solve_bundle(noisy, truth, iterations=6)
        rotation = so3_log(solution.state.rotation @ truth.rotation.mT)
        errors.append(torch.cat([rotation, solution.state.centre - truth.centre], dim=1))
        if seed % 20 == 0:
            said.append(camera_covariance(told(noisy, independent_frames=5.0), solution)[0])
    error, covariance = torch.stack(errors)[:, 1:], torch.stack(said).mean(0)  # (n, t - 1, 6), (t, 6, 6)
    assert not covariance[0].any() and not torch.stack(errors)[:, 0].any()
    ratio = error.square().mean(0).sqrt() / covariance[1:].diagonal(dim1=1, dim2=2).sqrt()
    assert 0.5 < float(ratio.min()) and float(ratio.max()) < 2.0
    # and together: the errors are as long as the covariance says, which has their directions too
    whitened = torch.linalg.solve(torch.linalg.cholesky(covariance[1:]), error.movedim(0, -1))
    assert 0.5 < float(whitened.square().mean().sqrt()) < 2.0


def test_fewer_independent_frames_say_less():
    evidence, truth = scene(points=40)
    solution = solve_bundle(simulated(evidence, truth, 3e-4, 0), truth, iterations=40)
    each = [
        camera_covariance(told(evidence, independent_frames=count), solution)[0][1:] for count in (1.0, 2.0, 5.0, 50.0)
    ]
    for wide, narrow in pairwise(each[:3]):
        assert float(torch.linalg.eigvalsh(wide - narrow).min()) > 0
    torch.testing.assert_close(each[2], each[3])  # each point is seen in five frames


def pnp_case(count=3, points=12):
    """Cameras before points that they all see, with noise and some weights of nothing."""
    world = normal(count, points, 3, seed=1) * double([1.0, 0.8, 0.5]) + double([0.0, 0.0, 4.0])
    pose = rigid(so3_exp(0.1 * normal(count, 3, seed=2)), 0.2 * normal(count, 3, seed=3))
    rays = torch.zeros(count, points, 2, dtype=torch.float64)
    rays = pnp.ray_residual(pose, world, rays)[0]
    weight = torch.rand(count, points, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    weight[:, ::5] = 0
    return pose, world, weight, rays


def test_the_gradients_of_pnp_are_half_the_derivatives_of_its_costs():
    pose, world, weight, rays = pnp_case()
    problem = pnp._Pnp(world, weight, rays + 0.01 * normal(*rays.shape, seed=5))
    spread = problem.fix(pose)
    assert bool((spread > 1e-3).all())
    gradient = problem.linearise(pose, spread).gradient / spread[:, None] ** 2  # which the equations are multiplied by
    for k in range(len(pose)):

        def of_one(step, k=k):
            steps = torch.zeros(len(pose), 6, dtype=torch.float64)
            steps[k] = step
            return float(problem.cost(problem.move(pose, spread, steps), spread)[k])

        torch.testing.assert_close(gradient[k], numeric_gradient(of_one, 6, h=1e-7), rtol=1e-4, atol=1e-4)


def test_where_the_points_fit_the_matrices_of_pnp_are_the_curvature():
    pose, world, weight, rays = pnp_case()
    problem, spread = pnp._Pnp(world, weight, rays), double([0.01, 0.02, 0.005])
    normals = problem.linearise(pose, spread)
    assert float(normals.gradient.abs().max()) < 1e-9
    for seed in range(4):
        step = 1e-5 * normal(len(pose), 6, seed=seed)
        expected = torch.einsum("ni,nij,nj->n", step, normals.matrix, step) / spread**2
        torch.testing.assert_close(problem.cost(problem.move(pose, spread, step), spread), expected, rtol=1e-2, atol=0)


def test_cameras_by_pnp_are_what_each_is_alone():
    """To the tolerance at which it ends: one camera alone may end earlier than among others."""
    pose, world, weight, rays = pnp_case()
    noisy = rays + 0.0005 * normal(*rays.shape, seed=5)
    start = rigid(so3_exp(0.1 * normal(3, 3, seed=6)) @ pose[:, :3, :3], pose[:, :3, 3] + 0.2 * normal(3, 3, seed=7))
    start[0] = pose[0]  # one that is nearly there
    together, spread = pnp.solve_pnp(start, world, weight, noisy, rounds=40)
    assert float((together - pose).abs().max()) < 0.02
    for k in range(3):
        alone, own = pnp.solve_pnp(start[k : k + 1], world[k : k + 1], weight[k : k + 1], noisy[k : k + 1], rounds=40)
        torch.testing.assert_close(together[k], alone[0], rtol=0, atol=1e-4)
        assert float(spread[k]) == pytest.approx(float(own), rel=1e-2)
