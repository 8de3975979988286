"""What is fitted between predicted and true depth before they are compared: always said, never implied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from geo4d.errors import ConfigError, InputError
from geo4d.geometry.fitting import fit_scale_l1, fit_scale_shift_l1, weighted_median
from geo4d.metrics.checks import require_choice, require_maps, require_predicted_depth, require_true_depth
from geo4d.metrics.descent import Descent


@dataclass(frozen=True)
class FittedDepth:
    """Scale and shift of every frame, in the space they were fitted in.

    No scale is negative: upside down is not good.
    """

    scale: np.ndarray  # (t,), >= 0
    shift: np.ndarray  # (t,)
    space: Literal["depth", "disparity"]
    far: float  # the greatest true depth of the fit; in disparity space nothing is put beyond it
    free_scale_is_negative: (
        np.ndarray
    )  # (t,) bool: a free fit would turn the frame upside down; False where no scale is fitted freely

    def apply(self, depth: np.ndarray) -> np.ndarray:
        """Aligned depth of all frames, (t, ...) in, (t, ...) out; holes stay holes."""
        wide = (-1,) + (1,) * (depth.ndim - 1)
        return self._map(depth, self.scale.reshape(wide), self.shift.reshape(wide))

    def apply_to(self, frame: int, depth: np.ndarray) -> np.ndarray:
        """Aligned depth of any pixels of one frame."""
        return self._map(depth, float(self.scale[frame]), float(self.shift[frame]))

    def _map(self, depth: np.ndarray, scale: np.ndarray | float, shift: np.ndarray | float) -> np.ndarray:
        depth = depth.astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):  # holes may be 0 or infinite
            if self.space == "depth":
                return scale * depth + shift
            # a scale of 0 leaves the shift alone, at depth 0 too
            disparity = np.where(scale == 0, scale * depth, scale / depth)
            # a fitted line may cross zero, where depth has no meaning: no prediction is put beyond the farthest truth
            return 1 / np.maximum(disparity + shift, 1 / self.far)


@dataclass(frozen=True)
class DepthAlignment:
    """Which map takes predicted onto true depth, and in what sense it is the best.

    Every fit is exact, but for a descent. `none` leaves depth alone; `median` is the ratio of the (lower) medians;
    `scale` and `scale_shift` minimise the sum of squares (`l2`) or of absolute values (`l1`) of what is left. `space`
    is where that sum is taken: of depth or of 1 / depth. A `descent` gives what some steps of Adam towards the least
    absolute deviations reach from the ratio of medians instead. No scale is negative: depth that a free fit would turn
    upside down gets scale 0 and counts as a constant, and the fit says so.
    """

    kind: Literal["none", "median", "scale", "scale_shift"] = "scale_shift"
    loss: Literal["l2", "l1"] = "l1"
    per: Literal["video", "frame"] = "video"
    space: Literal["depth", "disparity"] = "depth"
    descent: Descent | None = None

    def __post_init__(self) -> None:
        require_choice("The kind of depth alignment", self.kind, ("none", "median", "scale", "scale_shift"))
        require_choice("The loss of depth alignment", self.loss, ("l2", "l1"))
        require_choice("Depth alignment per", self.per, ("video", "frame"))
        require_choice("The space of depth alignment", self.space, ("depth", "disparity"))
        if self.descent is not None and (self.kind, self.loss) != ("scale_shift", "l1"):
            raise ConfigError(
                f"A descent of depth alignment needs scale_shift and l1; got {self.kind} and {self.loss}."
            )

    def __str__(self) -> str:
        """How the alignment is named in tables."""
        loss = f" {self.loss}" if self.kind.startswith("scale") else ""
        descent = (
            ""
            if self.descent is None
            else f" by {self.descent.steps} steps of {self.descent.rate:g} from the median scale"
        )
        return (
            "none"
            if self.kind == "none"
            else f"{self.kind.replace('_', '+')}{loss} per {self.per} in {self.space}{descent}"
        )

    def fit(self, prediction: np.ndarray, truth: np.ndarray, valid: np.ndarray) -> FittedDepth:
        """Fits (t, ...) depth to the truth where `valid`; pixels without a finite prediction take no part.

        A frame in which nothing can be fitted gets the fit of the whole video. Raises InputError for maps that do not
        fit each other, true depth that is not positive where `valid`, or a prediction that has no depth there, or only
        zeros.
        """
        require_maps("Predicted depth", prediction, truth, valid)
        require_true_depth(truth, valid)
        use = valid & self.usable(prediction)
        require_predicted_depth(prediction[use])
        far = float(truth[use].max())
        num = len(prediction)
        if self.per == "video" or self.kind == "none":
            scale, shift, flips = self._fit(prediction[use], truth[use])
            return FittedDepth(np.full(num, scale), np.full(num, shift), self.space, far, np.full(num, flips))
        fits = [
            self._fit(prediction[i][use[i]], truth[i][use[i]]) if prediction[i][use[i]].any() else None
            for i in range(num)
        ]
        whole = self._fit(prediction[use], truth[use]) if None in fits else (1.0, 0.0, False)
        scales, shifts, flipped = np.array([whole if fit is None else fit for fit in fits]).T
        return FittedDepth(scales, shifts, self.space, far, flipped.astype(bool))

    def usable(self, prediction: np.ndarray) -> np.ndarray:
        """Where there is a prediction: finite, and positive if it has to be inverted."""
        finite = np.isfinite(prediction)
        return finite if self.space == "depth" else finite & (prediction > 0)

    def _fit(self, depth: np.ndarray, true: np.ndarray) -> tuple[float, float, bool]:
        """Scale (not negative) and shift of one group of pixels, (n,) each.

        Also whether a free scale would be negative.
        """
        x, y = depth.astype(np.float64), true.astype(np.float64)
        if self.space == "disparity":
            x, y = 1 / x, 1 / y
        scale, shift = self._fit_freely(x, y)
        if self.descent is not None:
            return *self.descent.fit_scale_shift(x, y, _ratio_of_medians(x, y)), scale < 0
        # the sum is convex: where its minimum lies beyond the bound, the best that is allowed lies on it
        return (scale, shift, False) if scale >= 0 else (0.0, self._best_shift(y), True)

    def _best_shift(self, y: np.ndarray) -> float:
        """What a prediction of scale 0 is put at."""
        if self.kind == "scale":
            return 0.0
        return weighted_median(y) if self.loss == "l1" else float(y.mean())

    def _fit_freely(self, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
        """Scale and shift of (n,) values, whatever the scale's sign.

        Where there is a descent, the minimum that it heads for.
        """
        if self.kind == "none":
            return 1.0, 0.0
        if self.kind == "median":
            return _ratio_of_medians(x, y), 0.0
        if self.kind == "scale":
            return (fit_scale_l1(x, y) if self.loss == "l1" else float(x @ y / (x @ x))), 0.0
        if self.loss == "l2":
            return _fit_scale_shift_l2(x, y)
        return fit_scale_shift_l1(x, y)


def _ratio_of_medians(x: np.ndarray, y: np.ndarray) -> float:
    median = weighted_median(x)
    if median <= 0:
        raise InputError(
            f"Median scale needs a positive median of the prediction; got {median:g}; align by scale_shift instead."
        )
    return weighted_median(y) / median


def _fit_scale_shift_l2(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Least squares of s x + t - y; a constant x gives s = 0."""
    mean_x, mean_y = x.mean(), y.mean()
    centred = x - mean_x
    square = float(centred @ centred)
    if square <= 1e-24 * len(x) * max(1.0, mean_x**2):
        return 0.0, float(mean_y)
    scale = float(centred @ (y - mean_y)) / square
    return scale, float(mean_y - scale * mean_x)
