"""The soft losses that strategies share: small, pure, each with its source."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from kdsearch import tasks
from kdsearch.api import Batch, ModelInfo, Outputs, Space

FORMS = ("kl", "soft_ce", "mse_probabilities", "mse_logits", "symmetric")


def temperature(space: Space, teacher: ModelInfo) -> float:
    """The study's temperature, for a strategy that softens nothing but logits; 1, and not drawn, where outputs are values and nothing softens."""
    return space.temperature() if teacher.probabilities else 1.0


def soft_loss(
    student: Tensor,
    teacher: Tensor,
    temperature: float | None,
    form: str = "kl",
    direction: float | None = None,
    batch: Batch | None = None,
) -> Tensor:
    """How far the student's answer is from the teacher's: a scalar, the mean over the batch.

    Of a text that may have several labels or none, each label is a choice of its own between two, and the mean is over all of them.

    Args:
        student, teacher: logits (B, C). A regression knows no softmax: every form is then the squared difference.
        temperature: T > 0 of both softmaxes; None for mse_logits, which has none.
        form: kl: T^2 KL(t || s) (Hinton et al. 2015, arXiv:1503.02531, section 2, the T^2 after eq. 4) · soft_ce: T^2 times the
            cross-entropy with the teacher's softmax(z/T): the same gradient · mse_probabilities: squared distance of softmax(z/T), summed
            over classes (Brier) · mse_logits: mean squared difference of logits centred over classes (Ba & Caruana 2014, arXiv:1312.6184,
            eq. 1; the limit of T -> infinity in Hinton et al., section 2.1, up to the factor) · symmetric: T^2 times
            direction KL(t || s) + (1 - direction) KL(s || t).
        direction: 0..1, for symmetric alone.
        batch: the rows, which know their task. Default: one output is a regression's, several are classes.

    Raises:
        ValueError: another form.
    """
    name, labels = ("", None) if batch is None else (batch.task, batch.labels)
    task = _task(student, name)
    chosen, taught = task.choices(student, labels), task.choices(teacher, labels)
    if chosen is None or taught is None:
        return F.mse_loss(student, teacher)
    student, teacher = chosen[0], taught[0]
    if form == "mse_logits":
        centred = student - student.mean(-1, keepdim=True) - teacher + teacher.mean(-1, keepdim=True)
        return centred.square().mean()
    if temperature is None:
        raise ValueError(f"the form {form!r} needs a temperature")
    mine, theirs = F.log_softmax(student / temperature, -1), F.log_softmax(teacher / temperature, -1)
    if form == "kl":
        return temperature**2 * F.kl_div(mine, theirs, reduction="batchmean", log_target=True)
    if form == "soft_ce":
        return temperature**2 * -(theirs.exp() * mine).sum(-1).mean()
    if form == "mse_probabilities":
        return (mine.exp() - theirs.exp()).square().sum(-1).mean()
    if form == "symmetric" and direction is not None:
        forward = F.kl_div(mine, theirs, reduction="batchmean", log_target=True)
        backward = F.kl_div(theirs, mine, reduction="batchmean", log_target=True)
        return temperature**2 * (direction * forward + (1 - direction) * backward)
    raise ValueError(f"no form {form!r} (direction {direction!r}): {', '.join(FORMS)}; symmetric needs a direction")


def mixture(teachers: Tensor, weights: Tensor, temperature: float = 1.0, task: str = "") -> Tensor:
    """The logits (B, C) whose probabilities at z/T are the weighted mean of several teachers' at z/T; of a regression the weighted mean.

    Args:
        teachers: logits (K, B, C).
        weights: (K,), with sum 1.
        task: as the study names it. Default: one output is a regression's, several are classes.
    """
    activation = _task(teachers, task).activation
    weights = weights.reshape(-1, *[1] * (teachers.ndim - 1))
    if activation is None:
        return (weights * teachers).sum(0)
    scaled = teachers / temperature
    if activation == "softmax":
        return temperature * (weights.log() + F.log_softmax(scaled, -1)).logsumexp(0)
    there, not_there = ((weights.log() + F.logsigmoid(each)).logsumexp(0) for each in (scaled, -scaled))
    return temperature * (there - not_there)


def _task(logits: Tensor, name: str) -> tasks.Task:
    return tasks.of(name or tasks.suiting_outputs(logits.shape[-1]))


def blend(soft: Tensor, hard: Tensor, alpha: float) -> dict[str, Tensor]:
    """alpha * soft + (1 - alpha) * hard, as two terms. A term with no weight is left out: alpha = 0 is the control, to the last bit."""
    terms = {}
    if alpha > 0:
        terms["soft"] = alpha * soft
    if alpha < 1:
        terms["hard"] = (1 - alpha) * hard
    return terms


def logit_terms(student: Outputs, teacher: Outputs, batch: Batch, temperature: float | None, alpha: float) -> dict[str, Tensor]:
    """The terms of `logit` in its form kl, which most methods add theirs to: alpha * T^2 KL(t || s) + (1 - alpha) * hard_loss."""
    return blend(soft_loss(student.logits, teacher.logits, temperature, batch=batch), batch.hard_loss(student.logits), alpha)


def masked_mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference of token states (B, S, H) over real tokens (mask (B, S)) and dimensions."""
    weights = mask.to(student.dtype).unsqueeze(-1)
    return ((student - teacher).square() * weights).sum() / (weights.sum().clamp_min(1.0) * student.shape[-1])


def token_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values (B, S) over real tokens (mask (B, S))."""
    weights = mask.to(values.dtype)
    return (values * weights).sum() / weights.sum().clamp_min(1.0)


def scaled_mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of pooled states (B, H), or of token states (B, S, H) when a mask is given, after dividing both by the
    teacher's root mean square, row by row: about 1 for a student at zero, in any layer."""
    scale = teacher.square().mean(-1, keepdim=True).add(1e-6).rsqrt()
    mine, theirs = student * scale, teacher * scale
    return F.mse_loss(mine, theirs) if mask is None else masked_mse(mine, theirs, mask)


__all__ = ["FORMS", "blend", "logit_terms", "masked_mse", "mixture", "scaled_mse", "soft_loss", "temperature", "token_mean"]
