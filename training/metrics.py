"""How well a reward model's logits agree with labels; numpy only. Rates are in [0, 1]; each comes with its n."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def held_out(logits: Floats, labels: Floats, chosen: Floats, rejected: Floats) -> dict[str, float | int]:
    """Held-out metrics of a reward model; one that has no rows is left out.

    Args:
        logits: of labelled rows, [n].
        labels: of the same rows, in [0, 1]; above 0.5 is positive, exactly 0.5 takes no side.
        chosen: logits of the preferred answers of pairs, [m].
        rejected: logits of the other answers, [m].
    """
    metrics: dict[str, float | int] = {}
    sided = labels != 0.5
    if sided.any():
        positive = labels[sided] > 0.5
        metrics["heldout_accuracy"] = float(((logits[sided] > 0) == positive).mean())
        metrics["heldout_accuracy_n"] = int(sided.sum())
        if positive.any() and not positive.all():
            metrics["heldout_auc"] = area_under_curve(logits[sided], positive)
            metrics["heldout_nll"] = cross_entropy(logits, labels)
            metrics["heldout_temperature"] = temperature(logits, labels)
    if len(chosen):
        metrics["heldout_pair_accuracy"] = float(((chosen > rejected) + 0.5 * (chosen == rejected)).mean())
        metrics["heldout_pair_accuracy_n"] = len(chosen)
    return metrics


def area_under_curve(logits: Floats, positive: NDArray[np.bool_]) -> float:
    """The share of (positive, negative) pairs in which the positive has the higher logit; a tie counts one half."""
    _, group, size = np.unique(logits, return_inverse=True, return_counts=True)
    rank = (np.cumsum(size) - (size - 1) / 2)[group]
    hits, misses = int(positive.sum()), int((~positive).sum())
    return float((rank[positive].sum() - hits * (hits + 1) / 2) / (hits * misses))


def cross_entropy(logits: Floats, labels: Floats) -> float:
    """Mean binary cross-entropy in nats."""
    return float((np.logaddexp(0, logits) - labels * logits).mean())


def temperature(logits: Floats, labels: Floats) -> float:
    """The T in [0.05, 20] for which `logits / T` has the least cross-entropy: above 1, the model is too sure.

    The cross-entropy is convex in 1/T, so a ternary search over it finds the least.
    """
    low, high = 0.05, 20.0
    for _ in range(100):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        if cross_entropy(logits * left, labels) <= cross_entropy(logits * right, labels):
            high = right
        else:
            low = left
    return 2 / (low + high)
