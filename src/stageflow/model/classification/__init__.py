"""What an error or a response means for another attempt: permanent, transient, throttled, or an
outcome that nobody knows."""

from stageflow.model.classification.sign import Classification, ErrorKind
from stageflow.model.classification.sorting import classify

__all__ = ["Classification", "ErrorKind", "classify"]
