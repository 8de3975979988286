"""All windows -> one reconstruction: robust first guesses, a joint solve, dense fusion; cameras corrected by tracked points."""

from geo4d.alignment.align import align
from geo4d.alignment.config import AlignmentConfig
from geo4d.alignment.incremental import IncrementalAlignment
from geo4d.alignment.priors import Distance, Priors
from geo4d.alignment.refine import RefineConfig, refine_with_tracks

__all__ = ["AlignmentConfig", "Distance", "IncrementalAlignment", "Priors", "RefineConfig", "align", "refine_with_tracks"]
