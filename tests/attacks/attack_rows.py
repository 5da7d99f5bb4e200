"""Row sets that say no more than how many images an attack left right, and which checks it passed."""

from unmask_tf.experiment.rows import Header, RowSet, frame


def row_set(model: str, attack: str, epsilon_255: float, correct: int, n: int, checks: dict[str, bool]) -> RowSet:
    """M without a defence on `n` images, the first `correct` of which it gets right."""
    header = Header(
        key=f"{model} {attack} {epsilon_255}",
        data="waves",
        split="test",
        class_set="waves",
        classes={"low": (), "high": ()},
        model=model,
        defence="none",
        attack=attack,
        epsilon_255=epsilon_255,
        checks=checks,
    )
    answers = ["low"] * correct + ["high"] * (n - correct)
    return RowSet(header, frame([str(i) for i in range(n)], ["low"] * n, answers, answers))
