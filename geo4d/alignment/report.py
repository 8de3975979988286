"""What is to be said of an alignment: how well it fits, window by window and frame by frame, and what to be careful with."""
from __future__ import annotations
from typing import Any
from geo4d.alignment.confidence import relative_error
def describe(predictions, ready, solved, fusion, fits, dense):
    log_depth, precision, spread = dense
    from geo4d.alignment.align import terms_of
    return {"terms": terms_of(predictions, ready.rays), "window_focals":[round(f,5) for f in ready.guess.own], "window_scales": solved.unknowns.windows.scale.tolist(), "solver_steps": solved.steps, "focal_by_longer_side": float(solved.unknowns.log_focal.exp().mean()), "warnings":[*(f"Window {g} shares no usable frame with an earlier one; its scale and pose are guesses." for g in ready.loose)]}, relative_error(precision, spread, log_depth)
