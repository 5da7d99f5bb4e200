"""The kinds of steps: the only place where the experiment touches the science."""

KINDS = ("train_k", "score_k", "train_m", "attack", "extract", "answer", "evaluate_k", "binarise")
