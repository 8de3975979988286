"""Files <-> dataclasses."""
