"""The errors geo4d raises on purpose. Each message says what, expected, got and remedy, in one sentence."""


class Geo4DError(Exception):
    """Base of every error that a user can cause and mend; the command line prints it without a traceback."""


class ConfigError(Geo4DError):
    """A setting is misspelt, out of range or contradicts another one."""


class InputError(Geo4DError):
    """An input or output file, folder or array cannot be used as given."""


class CheckpointError(Geo4DError):
    """A weight file does not hold what was asked of it."""


class AlignmentError(Geo4DError):
    """The window predictions do not determine a reconstruction."""
