"""All windows -> one reconstruction.

Robust initial guesses, a joint solve, cameras by followed points, dense fusion.
"""

from geo4d.alignment.align import align
from geo4d.alignment.config import AlignmentConfig
from geo4d.alignment.incremental import IncrementalAlignment
from geo4d.alignment.priors import Distance, Priors

__all__ = ["AlignmentConfig", "Distance", "IncrementalAlignment", "Priors", "align"]
