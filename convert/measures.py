"""How far the numbers of two engines are apart, row by row and in float64, whatever they were computed in.

A row is one vector: the features of an image token, the logits at one place, a key of one head.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

# Of each row one number: "cosine", "error" and "max_abs"; of logits also "kl", "same" and "margin".
Rows = dict[str, np.ndarray]

BLOCK = 2**22  # numbers that become float64 at a time


def compare(left: np.ndarray, right: np.ndarray) -> Rows:
    """Compare `right` with `left`, the reference: both [..., width], a row each vector of the last axis.

    cosine: of the angle between them. error: |right - left| / |left|, which unlike the cosine sees a wrong length;
    for vectors of equal length cosine = 1 - error^2 / 2. max_abs: the largest difference of two numbers.
    Two zero vectors are equal, a zero and another one have cosine 0. What is not finite gives NaN.
    """
    return _by_block(left, right, _vectors)


def compare_logits(left: np.ndarray, right: np.ndarray) -> Rows:
    """`compare` for logits [..., vocabulary], and as the probabilities p = softmax(left) and q = softmax(right).

    kl: sum_v p(v) (log p(v) - log q(v)), in nats. same: whether both have the same most likely token. margin: how much
    likelier `left` holds its own most likely token than that of `right`, log p(one) - log p(other), in nats.
    """
    return _by_block(left, right, _logits)


def joined(parts: Sequence[Mapping[str, np.ndarray]]) -> Rows:
    """The rows of all `parts`, one after the other; at least one part."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def root_mean_square(values: np.ndarray) -> float:
    """sqrt(mean(values^2))."""
    return float(np.sqrt(np.mean(np.square(values))))


def summary(rows: Rows) -> dict[str, float | int | None]:
    """The rows in a few numbers, for a report: the worst cosine, error and difference, the error's root mean square;
    of logits KL (mean, largest) and the share of rows with the same most likely token."""
    numbers = {
        "rows": len(rows["cosine"]),
        "cosine": rows["cosine"].min(),
        "max_error": rows["error"].max(),
        "rms_error": root_mean_square(rows["error"]),
        "max_abs": rows["max_abs"].max(),
    }
    if "kl" in rows:
        numbers |= {"kl_mean": rows["kl"].mean(), "kl_max": rows["kl"].max(), "top1": rows["same"].mean()}
    return {name: rounded(value) for name, value in numbers.items()}


def rounded(value: float) -> float | int | None:
    """To 6 significant digits; None for what is not finite, which JSON cannot say."""
    if isinstance(value, int):
        return value
    return float(f"{value:.6g}") if np.isfinite(value) else None


def _by_block(left: np.ndarray, right: np.ndarray, measure: Callable[[np.ndarray, np.ndarray], Rows]) -> Rows:
    assert left.shape == right.shape, f"{left.shape} is compared with {right.shape}"
    width = left.shape[-1]
    left, right = left.reshape(-1, width), right.reshape(-1, width)
    rows = max(1, BLOCK // width)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return joined(
            [
                measure(left[start : start + rows].astype(np.float64), right[start : start + rows].astype(np.float64))
                for start in range(0, len(left), rows)
            ]
        )


def _vectors(left: np.ndarray, right: np.ndarray) -> Rows:
    difference = np.linalg.norm(right - left, axis=1)
    length, other = np.linalg.norm(left, axis=1), np.linalg.norm(right, axis=1)
    cosine = (left / length[:, None] * (right / other[:, None])).sum(1)
    zero = (length == 0) | (other == 0)
    return {
        "cosine": np.where(zero, (length == other).astype(np.float64), cosine),
        "error": np.where(difference == 0, 0.0, difference / length),
        "max_abs": np.abs(right - left).max(1),
    }


def _logits(left: np.ndarray, right: np.ndarray) -> Rows:
    p, q = _log_softmax(left), _log_softmax(right)
    rows, best, other = np.arange(len(p)), left.argmax(1), right.argmax(1)
    return _vectors(left, right) | {
        "kl": (np.exp(p) * (p - q)).sum(1),
        "same": best == other,
        "margin": p[rows, best] - p[rows, other],
    }


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
