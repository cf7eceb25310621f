"""The errors of tinygen: who, where, what arrived, which rule was broken, how to mend it.

`UserError` and its children are for bad input from outside (a truncated file, an unknown flag, a checkpoint of
another model): the command line prints their sentence, without a traceback, and exits with code 2.
"""


class TinygenError(Exception):
    """Base of every error that tinygen raises on purpose."""


class ShapeError(TinygenError, ValueError):
    """Arrays whose shapes do not fit an operation."""


class DtypeError(TinygenError, TypeError):
    """An element type that an operation does not take, or two float types mixed."""


class DeviceError(TinygenError, RuntimeError):
    """Arrays on different devices, or a device that this machine does not have."""


class GradientError(TinygenError, RuntimeError):
    """A gradient that does not exist, cannot be computed, or disagrees with a finite difference."""


class UnusedParameterError(GradientError):
    """A gradient was asked for a tensor that the result does not depend on."""


class StaleGraphError(GradientError):
    """The graph's saved values were freed, or a parameter was changed after it was recorded."""


class NonFiniteError(TinygenError, ArithmeticError):
    """A NaN or an infinity where finite numbers were promised."""


class UserError(TinygenError):
    """Bad input from outside. Its text is one sentence that says what is wrong and how to mend it."""


class DataError(UserError):
    """A data file that is missing, truncated, hostile or of another format."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, or of another model or configuration."""


class ConfigError(UserError):
    """An unknown name or an impossible value in a configuration or on the command line."""
