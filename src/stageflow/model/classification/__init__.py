"""What an error or a response means for another attempt: permanent, transient, throttled, or an
outcome that nobody knows."""

from stageflow.model.classification.classify import classify
from stageflow.model.classification.sign import Classification, ErrorKind

__all__ = ["Classification", "ErrorKind", "classify"]
