"""How training ends early. Nothing here needs PyTorch, so that a command can tell these errors from others."""

from slimcodec import SlimcodecError


class TrainingStopped(SlimcodecError):
    """Training ended before its last step, by a loss that is not a number or by an interruption."""


class TrainingInterrupted(TrainingStopped):
    """Training was told to stop, by a time limit or a signal; the same command continues."""
