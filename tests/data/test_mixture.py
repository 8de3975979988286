"""The order of windows: ratios, sizes, strides, ranks that share nothing, and any step again at any time."""

from collections import Counter

import numpy as np
import pytest

from geo4d.config import load_config
from geo4d.data import DataSet, Mixture, MixtureConfig, Recording
from geo4d.data.mixture import BLOCK, PAPER_RATIOS
from geo4d.errors import ConfigError


class Imagined(DataSet):
    """Recordings of these lengths, without a file."""

    kind = "imagined"

    def __init__(self, *lengths):
        self.recordings = tuple(Recording(str(i), 0, 1, length, 24.0) for i, length in enumerate(lengths))

    def frames(self, recording, indices):
        raise NotImplementedError


SETS = {name: Imagined(40, 10, 200, 25 + i) for i, name in enumerate(PAPER_RATIOS)}


def mixture(**settings):
    return Mixture(SETS, MixtureConfig(**{"batch": 4, **settings}), seed=11)


def key(draw):
    return draw.data, draw.recording, draw.start, draw.stride


def test_ratios_are_those_of_the_table():
    draws = [draw for step in range(BLOCK // 4) for draw in mixture().plan(step)]
    counts = Counter(draw.data for draw in draws)
    assert {name: count / len(draws) for name, count in counts.items()} == pytest.approx(
        {"pointodyssey": 1 / 6, "tartanair": 1 / 6, "spring": 1 / 6, "vkitti2": 1 / 6, "bedlam": 1 / 3}
    )
    early = Counter(draw.data for draw in draws[:120])
    assert min(early.values()) >= 8  # mixed from the start


def test_a_plan_is_a_pure_function_of_seed_step_and_rank():
    first, again = mixture(), mixture()
    plans = [first.plan(step, 1, 3) for step in range(50)]
    assert [again.plan(step, 1, 3) for step in (49, 7, 23)] == [plans[step] for step in (49, 7, 23)]  # resumed anywhere
    assert Mixture(SETS, MixtureConfig(batch=4), seed=12).plan(0) != first.plan(0)


def test_ranks_share_no_window_within_an_epoch():
    steps, world = 20, 4
    draws = [
        draw for step in range(steps) for rank in range(world) for draw in mixture(strides=(1,)).plan(step, rank, world)
    ]
    windows = Counter(map(key, draws))
    epoch = int(mixture().starts["spring"][-1])
    assert Counter(draw.data for draw in draws)["spring"] < epoch
    assert max(windows.values()) == 1
    alone = [draw for step in range(steps * world) for draw in mixture(strides=(1,)).plan(step)]
    assert Counter(map(key, alone)) == windows  # however many ranks there are, the run sees the same windows


def test_an_epoch_visits_every_window_once():
    one = Mixture({"spring": SETS["spring"]}, MixtureConfig(batch=1, strides=(1,)), seed=3)
    size = int(one.starts["spring"][-1])
    assert size == 25 + 185 + (27 - 15)  # the recording of ten frames is too short
    for epoch in range(2):
        keys = {key(one.plan(step)[0]) for step in range(epoch * size, (epoch + 1) * size)}
        assert len(keys) == size
        assert {recording for _, recording, _, _ in keys} == {0, 2, 3}
    assert [key(one.plan(step)[0]) for step in range(size)] != [key(one.plan(size + step)[0]) for step in range(size)]


def test_windows_fit_and_strides_are_even():
    draws = [draw for step in range(500) for draw in mixture().plan(step)]
    for draw in draws:
        count = SETS[draw.data].recordings[draw.recording].count
        assert draw.start >= 0 and draw.start + 15 * draw.stride < count
    long = [draw for draw in draws if draw.recording == 2]
    shares = np.bincount([draw.stride for draw in long])[1:] / len(long)
    assert np.abs(shares - 1 / 3).max() < 0.06
    assert min(draw.start for draw in long) < 5
    assert max(draw.start + 15 * draw.stride for draw in long) > 195


def test_one_size_a_step_on_all_ranks():
    m = mixture()
    sizes = []
    for step in range(400):
        size = {draw.view.size for rank in range(2) for draw in m.plan(step, rank, 2)}
        assert len(size) == 1
        sizes += size
    assert set(sizes) == {(384, 512), (320, 512), (256, 576), (192, 640)}
    assert min(Counter(sizes).values()) > 60


def test_views_differ_and_half_are_mirrored():
    views = [draw.view for step in range(100) for draw in mixture().plan(step)]
    assert 0.4 < np.mean([view.flip for view in views]) < 0.6
    assert len({view.zoom for view in views}) == len(views)
    assert min(view.zoom for view in views) >= 0.7


def test_substitutes_are_of_the_same_set_and_size():
    m = mixture()
    draw = m.plan(5)[0]
    others = [m.substitute(draw, attempt) for attempt in range(1, 6)]
    assert {(o.data, o.view.size) for o in others} == {(draw.data, draw.view.size)}
    assert len({key(o) for o in [draw, *others]}) > 3
    assert m.substitute(draw, 2) == others[1]


def test_sets_that_are_not_there_fall_away():
    m = Mixture({"spring": SETS["spring"], "bedlam": SETS["bedlam"]}, MixtureConfig(batch=3))
    counts = Counter(draw.data for step in range(BLOCK // 3) for draw in m.plan(step))
    assert counts == {"bedlam": 480, "spring": 240}


@pytest.mark.parametrize(
    ("sets", "settings", "message"),
    [
        ({}, {}, "needs data sets"),
        ({"mine": Imagined(40)}, {}, "no ratio for mine"),
        ({"spring": Imagined(10, 12)}, {}, "No recording of spring"),
        ({"spring": Imagined()}, {}, "No recording of spring"),
        (
            {"spring": Imagined(40), "bedlam": Imagined(40)},
            {"ratios": {"spring": 1.0, "bedlam": 1e-5}},
            "never be drawn",
        ),
    ],
)
def test_what_cannot_be_mixed_is_refused(sets, settings, message):
    with pytest.raises(ConfigError, match=message):
        Mixture(sets, MixtureConfig(**settings))


def test_settings_come_from_words():
    config = load_config(
        MixtureConfig,
        overrides=["batch=2", "ratios.spring=3", "sizes=[{height: 64, width: 96}]", "film.blur_share=0", "strides=[1]"],
    )
    m = Mixture(SETS, config)
    assert m.plan(0)[0].view.size == (64, 96) and len(m.plan(0)) == 2
    assert load_config(MixtureConfig, overrides=["film=null"]).film is None
