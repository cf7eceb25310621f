"""The losses, as plain functions of tensors: differentiable to any order, since they are made of operations.

`reduction` says what becomes of the elements: "mean" over all of them, "sum", or "none" for the elements
themselves. Predictions and targets must have one shape: a silent (N,) against (N, 1) makes N² differences out
of N.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import ops
from .backend import is_array
from .errors import ShapeError
from .tape import grad, no_grad
from .tensor import Tensor

# ---- regression and likelihoods


def reduced(elements: Tensor, reduction: str) -> Tensor:
    """elements by "mean", "sum" or "none"."""
    if reduction == "mean":
        return ops.mean(elements)
    if reduction == "sum":
        return ops.sum(elements)
    if reduction == "none":
        return elements
    raise ValueError(f"reduction is 'mean', 'sum' or 'none', not {reduction!r}.")


def _pair(name: str, x: Tensor, target: Any) -> tuple[Tensor, Tensor]:
    target = target if isinstance(target, Tensor) else Tensor(target)
    if x.shape != target.shape:
        raise ShapeError(f"{name} needs a target of the prediction's shape; {x.shape} ≠ {target.shape}.")
    return x, target


def mse(x: Tensor, target: Any, reduction: str = "mean") -> Tensor:
    """(x − target)². Both of one shape."""
    x, target = _pair("mse", x, target)
    return reduced(ops.square(x - target), reduction)


def l1(x: Tensor, target: Any, reduction: str = "mean") -> Tensor:
    """|x − target|. Both of one shape."""
    x, target = _pair("l1", x, target)
    return reduced(ops.abs(x - target), reduction)


def huber(x: Tensor, target: Any, delta: float = 1.0, reduction: str = "mean") -> Tensor:
    """½ d² where |d| ≤ delta, else delta·(|d| − ½ delta), d = x − target (Huber 1964, "Robust Estimation of a
    Location Parameter", example (iii)). Both of one shape."""
    x, target = _pair("huber", x, target)
    size = ops.abs(x - target)
    near = ops.minimum(size, delta)
    return reduced(near * (size - 0.5 * near), reduction)


def bce_with_logits(logits: Tensor, target: Any, reduction: str = "mean") -> Tensor:
    """−t·log σ(z) − (1 − t)·log(1 − σ(z)) = softplus(z) − t·z, for z the logits and t in [0, 1]; in nats,
    finite for every finite z (Bishop 2006, eq. 4.90). Both of one shape."""
    logits, target = _pair("bce_with_logits", logits, target)
    return reduced(ops.softplus(logits) - target * logits, reduction)


def cross_entropy(logits: Tensor, labels: Any, reduction: str = "mean") -> Tensor:
    """−log softmax(logits)[label], in nats (Bishop 2006, eq. 4.108). logits (…, K); labels (…) integers in
    [0, K)."""
    return reduced(ops.softmax_cross_entropy(logits, labels), reduction)


def gaussian_nll(x: Any, mean: Tensor, logvar: Tensor, reduction: str = "mean") -> Tensor:
    """−log N(x; mean, exp logvar) = ½·(log 2π + logvar + (x − mean)²·exp(−logvar)) of each element, in nats
    (Bishop 2006, eq. 1.46). x and mean of one shape; logvar may broadcast to it."""
    mean, x = _pair("gaussian_nll", mean, x)
    elements = ops.square(x - mean) * ops.exp(-logvar) + logvar + math.log(2 * math.pi)
    return reduced(0.5 * elements, reduction)


def kl_normal(mean: Tensor, logvar: Tensor, reduction: str = "mean") -> Tensor:
    """KL(N(mean, exp logvar) ‖ N(0, I)) = ½ Σ (mean² + exp logvar − 1 − logvar), in nats (Kingma and Welling
    2014, "Auto-Encoding Variational Bayes", appendix B).

    mean, logvar (N, …) of one shape. Summed over all axes but the first; reduction is over the N samples.
    """
    mean, logvar = _pair("kl_normal", mean, logvar)
    elements = 0.5 * (ops.square(mean) + ops.expm1(logvar) - logvar)
    return reduced(per_sample(elements), reduction)


def per_sample(elements: Tensor) -> Tensor:
    """Σ over all axes but the first: (N, …) → (N,)."""
    return ops.sum(elements, axis=tuple(range(1, elements.ndim))) if elements.ndim > 1 else elements


# ---- the two losses of a GAN, on the discriminator's outputs (logits), any shape; means over all elements


class GanLoss(NamedTuple):
    """d(real, fake) is what the discriminator minimises, g(fake) what the generator minimises."""

    d: Callable[[Tensor, Tensor], Tensor]
    g: Callable[[Tensor], Tensor]


def d_logistic(real: Tensor, fake: Tensor) -> Tensor:
    """−E log σ(real) − E log(1 − σ(fake)) (Goodfellow et al. 2014, "Generative Adversarial Nets", eq. 1,
    negated)"""
    return ops.mean(ops.softplus(-real)) + ops.mean(ops.softplus(fake))


def g_saturating(fake: Tensor) -> Tensor:
    """E log(1 − σ(fake)) (Goodfellow et al. 2014, eq. 1): flat where the discriminator wins"""
    return -ops.mean(ops.softplus(fake))


def g_non_saturating(fake: Tensor) -> Tensor:
    """−E log σ(fake) (Goodfellow et al. 2014, §3, below eq. 1)"""
    return ops.mean(ops.softplus(-fake))


def d_hinge(real: Tensor, fake: Tensor) -> Tensor:
    """E max(0, 1 − real) + E max(0, 1 + fake) (Lim and Ye 2017, "Geometric GAN", eq. 17; Miyato et al. 2018,
    eq. 16)"""
    return ops.mean(ops.relu(1 - real)) + ops.mean(ops.relu(1 + fake))


def d_least_squares(real: Tensor, fake: Tensor) -> Tensor:
    """½ E (real − 1)² + ½ E fake² (Mao et al. 2017, "Least Squares GAN", eq. 2 and 9: a = 0, b = c = 1)"""
    return 0.5 * (ops.mean(ops.square(real - 1)) + ops.mean(ops.square(fake)))


def g_least_squares(fake: Tensor) -> Tensor:
    """½ E (fake − 1)² (Mao et al. 2017, eq. 9)"""
    return 0.5 * ops.mean(ops.square(fake - 1))


def d_wasserstein(real: Tensor, fake: Tensor) -> Tensor:
    """E fake − E real (Arjovsky et al. 2017, "Wasserstein GAN", eq. 2, negated); the critic must be kept
    1-Lipschitz"""
    return ops.mean(fake) - ops.mean(real)


def g_wasserstein(fake: Tensor) -> Tensor:
    """−E fake (Arjovsky et al. 2017, Algorithm 1, line 10; also the generator of the hinge loss)"""
    return -ops.mean(fake)


non_saturating = GanLoss(d_logistic, g_non_saturating)
saturating = GanLoss(d_logistic, g_saturating)
hinge = GanLoss(d_hinge, g_wasserstein)
least_squares = GanLoss(d_least_squares, g_least_squares)
wasserstein = GanLoss(d_wasserstein, g_wasserstein)

GAN_LOSSES: dict[str, GanLoss] = {
    "non_saturating": non_saturating,
    "saturating": saturating,
    "hinge": hinge,
    "least_squares": least_squares,
    "wasserstein": wasserstein,
}


# ---- penalties on the discriminator's gradient


def certainty(logits: Tensor) -> Any:
    """The mean of D = σ(logit), to be reported (`Tensor.scalar`): how sure a GAN's discriminator is."""
    with no_grad():
        return ops.mean(ops.sigmoid(logits)).scalar()


def _input_gradient(D: Callable[[Tensor], Tensor], x: Any) -> Tensor:
    """∂D/∂x of each sample, itself differentiable. The sum over the batch keeps the samples apart, provided
    that D treats each by itself (no batch norm)."""
    x = Tensor(x.data if isinstance(x, Tensor) else x, requires_grad=True)
    return grad(ops.sum(D(x)), x, create_graph=True)


def interpolate(real: Any, fake: Any, u: Any) -> Tensor:
    """u·real + (1 − u)·fake, constant: where the gradient penalty looks (Gulrajani et al. 2017, Algorithm 1,
    line 6).

    real, fake (N, …); u (N,), uniform in [0, 1): one number a sample.
    """
    real, fake, u = (t.data if isinstance(t, Tensor) else t if is_array(t) else np.asarray(t) for t in (real, fake, u))
    if real.shape != fake.shape or u.shape != real.shape[:1]:
        raise ShapeError(f"interpolate needs real and fake of one shape and u (N,); got {real.shape}, "
                         f"{fake.shape} and {u.shape}.")
    u = u.astype(real.dtype).reshape(-1, *[1] * (real.ndim - 1))
    return Tensor(u * real + (1 - u) * fake)


def gradient_penalty(D: Callable[[Tensor], Tensor], x: Any, target: float = 1.0,
                     reduction: str = "mean") -> Tensor:
    """E (‖∂D/∂x‖ − target)², the norm over all axes of each sample, √(‖·‖² + 1e-12) so that it has a slope at
    0 (Gulrajani et al. 2017, "Improved Training of Wasserstein GANs", eq. 3 with target 1; target 0 penalises
    any slope).

    D maps (N, …) to one number a sample, without batch norm; x (N, …), see `interpolate`. Multiply by λ
    outside.
    """
    g = _input_gradient(D, x)
    norm = ops.sqrt(per_sample(ops.square(g)) + 1e-12)
    return reduced(ops.square(norm - target), reduction)


def r1_penalty(D: Callable[[Tensor], Tensor], real: Any, reduction: str = "mean") -> Tensor:
    """E ‖∂D/∂x‖² at real samples (Mescheder, Geiger and Nowozin 2018, "Which Training Methods for GANs do
    actually Converge?", eq. 9, without its γ/2). D and x as in `gradient_penalty`."""
    return reduced(per_sample(ops.square(_input_gradient(D, real))), reduction)
