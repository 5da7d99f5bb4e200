"""UnMask (Freitas et al., IEEE Big Data 2020) in Keras: detect and undo attacks by the parts one sees."""

__version__ = "0.1.0"
