"""Model M: `CLASSIFIERS` is the table of its architectures."""

from unmask_tf.classifiers.table import CLASSIFIERS

__all__ = ["CLASSIFIERS"]
