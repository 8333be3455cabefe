"""Metrics on resampled rows, all resamples at once.

counts (D, N): how often a row is in each resample; predictions (M, N): of M models; they return (D, M).
"""

from __future__ import annotations

import numpy as np


def accuracy(counts: np.ndarray, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return (counts @ (predictions == labels).T.astype(np.float32) / len(labels)).astype(np.float64)


def _per_class(counts: np.ndarray, predictions: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many rows of each class are right, predicted and labelled so: (D, C) each, for one model."""
    names = np.union1d(predictions, labels)
    is_predicted, is_label = (predictions[:, None] == names).astype(np.float32), (labels[:, None] == names).astype(np.float32)
    both, is_predicted, is_label = ((counts @ table).astype(np.float64) for table in (is_predicted * is_label, is_predicted, is_label))
    return both, is_predicted, is_label


def macro_f1(counts: np.ndarray, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    found = []
    for one in predictions:
        both, is_predicted, is_label = _per_class(counts, one, labels)
        total = is_predicted + is_label
        there = total > 0  # a class that is neither predicted nor drawn does not count, as in scikit-learn
        found.append((2 * both / np.where(there, total, 1)).sum(1) / there.sum(1))
    return np.stack(found, axis=1)


def mcc(counts: np.ndarray, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    found = []
    rows = len(labels)
    for one in predictions:
        both, is_predicted, is_label = _per_class(counts, one, labels)
        joint = both.sum(1) * rows - (is_predicted * is_label).sum(1)
        spread = (rows**2 - (is_predicted**2).sum(1)) * (rows**2 - (is_label**2).sum(1))
        found.append(np.where(spread > 0, joint / np.sqrt(np.where(spread > 0, spread, 1)), 0.0))
    return np.stack(found, axis=1)


def _correlation(weights: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of each draw: weights (D, N); one and other (N,) or (D, N)."""
    total = weights.sum(1, keepdims=True)
    one = one - (weights * one).sum(1, keepdims=True) / total
    other = other - (weights * other).sum(1, keepdims=True) / total
    joint = (weights * one * other).sum(1)
    spread = np.sqrt((weights * one**2).sum(1) * (weights * other**2).sum(1))
    return np.where(spread > 0, joint / np.where(spread > 0, spread, 1), 0.0)


def pearson(counts: np.ndarray, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    weights = counts.astype(np.float64)
    return np.stack([_correlation(weights, one[None], labels[None].astype(np.float64)) for one in predictions], axis=1)


def _ranks(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(D, N) the rank of each row's value among the rows of a draw, ties at their mean."""
    names, place = np.unique(values, return_inverse=True)
    grouped = np.zeros((len(counts), len(names)))
    order = np.argsort(place, kind="stable")
    grouped[:] = np.add.reduceat(counts[:, order].astype(np.float64), np.searchsorted(place[order], np.arange(len(names))), axis=1)
    return (np.cumsum(grouped, axis=1) - grouped + (grouped + 1) / 2)[:, place]


def spearman(counts: np.ndarray, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    weights, truth = counts.astype(np.float64), _ranks(counts, labels)
    return np.stack([_correlation(weights, _ranks(counts, one), truth) for one in predictions], axis=1)
