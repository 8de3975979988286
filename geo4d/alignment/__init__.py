"""Window predictions of any source -> one reconstruction."""

from geo4d.alignment.align import align
from geo4d.alignment.config import AlignmentConfig

__all__ = ["AlignmentConfig", "align"]
