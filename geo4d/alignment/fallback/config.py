"""Settings of what is left to do without point maps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FallbackConfig:
    """How scale and shift of disparity follow from cameras that move.

    Those under which frames, seen from one another, agree.
    """

    gaps: tuple[int, ...] = (4, 8)  # frames between which depth must agree
    agreement: tuple[float, ...] = (0.1, 0.02)  # disparity by which frames may differ, at first and in the end
    nearness: tuple[float, ...] = (
        0.01,
        0.03,
        0.06,
        0.1,
        0.2,
        0.3,
        0.5,
        0.8,
        1.2,
        2.0,
    )  # path by typical depth, that is tried
    shifts: tuple[float, ...] = (0.0, 0.1, 0.3, 1.0, 3.0)  # by the typical disparity, that are tried
    least_cost: float = 0.92  # of the cost of things infinitely far away, that a scale must stay below to be taken
