"""Progress bars for the command line; the library itself only calls back."""

from __future__ import annotations

from collections.abc import Callable

from tqdm import tqdm


class Bars:
    """Draws one bar a stage, with the time left, from calls (stage, done, total)."""

    def __init__(self, *, hidden: bool = False) -> None:
        self.hidden = hidden
        self._bars: dict[str, tqdm] = {}  # type: ignore[type-arg]

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Moves the stage's bar."""
        bar = self._bars.get(stage)
        if bar is None:
            bar = self._bars[stage] = tqdm(
                total=total, initial=done, desc=stage, disable=self.hidden or None, leave=True
            )
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    def counter(self, stage: str) -> Callable[[int, int], None]:
        """The same for callers that know one stage."""
        return lambda done, total: self(stage, done, total)
