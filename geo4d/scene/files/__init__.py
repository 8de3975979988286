"""Each dataclass on disk: one file a class."""
