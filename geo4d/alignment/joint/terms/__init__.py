"""The terms of the joint problem by name: a new one is a file, and a line here or a call of `register`."""

from __future__ import annotations

from collections.abc import Callable

from geo4d.alignment.joint.problem import JointProblem
from geo4d.alignment.joint.terms.base import Block, Rows, Term
from geo4d.alignment.joint.terms.depth import DepthTerm
from geo4d.alignment.joint.terms.focal import FocalTerm
from geo4d.alignment.joint.terms.points import PointsTerm
from geo4d.alignment.joint.terms.poses import PosesTerm
from geo4d.alignment.joint.terms.rays import RaysTerm
from geo4d.alignment.joint.terms.smoothness import SmoothnessTerm
from geo4d.errors import ConfigError

Factory = Callable[[JointProblem], Term | None]  # None: the problem holds nothing of it

TERMS: dict[str, Factory] = {
    "points": PointsTerm.of,
    "rays": RaysTerm.of,
    "poses": PosesTerm.of,
    "depth": DepthTerm.of,
    "smoothness": SmoothnessTerm.of,
    "focal": FocalTerm.of,
}


def register(name: str, factory: Factory) -> None:
    """Makes a term known under a name that the configuration can list. Raises ConfigError if the name is taken."""
    if name in TERMS:
        raise ConfigError(f"There is a term {name!r} already; choose another name.")
    TERMS[name] = factory


def build_terms(problem: JointProblem) -> tuple[Term, ...]:
    """The terms that the configuration lists and the problem has something for.

    Raises ConfigError for a list that cannot work.
    """
    names = problem.config.terms
    for name in names:
        if name not in TERMS:
            raise ConfigError(f"There is no term {name!r}; expected some of {', '.join(TERMS)}.")
        if names.count(name) > 1:
            raise ConfigError(f"The setting terms lists {name!r} twice; list each term once.")
    if "points" not in names:
        raise ConfigError(
            f"The setting terms must list 'points', which the joint solve rests on; got {', '.join(names) or 'none'}."
        )
    found = (TERMS[name](problem) for name in names)
    return tuple(term for term in found if term is not None)


__all__ = ["TERMS", "Block", "Factory", "Rows", "Term", "build_terms", "register"]
