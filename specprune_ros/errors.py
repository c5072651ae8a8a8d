"""Errors that a user can act on. Each message names the thing that is wrong and the remedy."""


class SpecpruneError(Exception):
    """Base class of every error this package raises on purpose."""


class CheckpointError(SpecpruneError):
    """A checkpoint directory is incomplete, broken, of another kind, or does not fit its config."""


class ObservationError(SpecpruneError):
    """An observation cannot be used: image shape or type, proprio length, NaN, no instruction."""


class ImageError(ObservationError):
    """An image message cannot be converted: unknown encoding, wrong step, truncated buffer."""


class JointStateError(ObservationError):
    """Joint states cannot be used: missing names, lengths that differ, NaN, time going backward."""


class ActionError(SpecpruneError):
    """Actions cannot be played: wrong shape, NaN, no control period."""


class ConfigurationError(SpecpruneError):
    """Settings that contradict one another or lie outside their range."""


class MethodUnavailable(SpecpruneError):
    """A pruning method cannot be run faithfully with what is at hand; the message says why."""


class SimulatorError(SpecpruneError):
    """The simulator cannot be built, rendered or stepped."""


class RecordingError(SpecpruneError):
    """A recording or a bag is missing, broken, or lacks what was asked of it."""


class InferenceError(SpecpruneError):
    """The network gave no usable actions (NaN or infinite values)."""
