"""The losses against closed forms and PyTorch; the penalties against their exact values."""

import math

import numpy as np
import pytest

import tinygen as tg
from tinygen import losses, ops
from tinygen.audit.check import check_grads


def draw(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(s) for s in shapes]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_values_agree_with_torch(reduction):
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    x, y = draw((5, 3), (5, 3))
    t = np.random.default_rng(1).uniform(0, 1, (5, 3))
    labels = np.array([0, 2, 1, 1, 0])
    tx, ty, tt = map(torch.tensor, (x, y, t))
    X, Y, L = tg.Tensor(3 * x), tg.Tensor(y), tg.Tensor(x)
    pairs = [
        (losses.mse(X, Y, reduction), F.mse_loss(3 * tx, ty, reduction=reduction)),
        (losses.l1(X, Y, reduction), F.l1_loss(3 * tx, ty, reduction=reduction)),
        (losses.huber(X, Y, 0.7, reduction), F.huber_loss(3 * tx, ty, reduction=reduction, delta=0.7)),
        (losses.bce_with_logits(X, t, reduction),
         F.binary_cross_entropy_with_logits(3 * tx, tt, reduction=reduction)),
        (losses.cross_entropy(X, labels, reduction),
         F.cross_entropy(3 * tx, torch.tensor(labels), reduction=reduction)),
        (losses.gaussian_nll(Y, X, L, reduction),
         F.gaussian_nll_loss(3 * tx, ty, tx.exp(), full=True, eps=0, reduction=reduction)),
    ]
    for ours, theirs in pairs:
        assert np.allclose(ours.numpy(), theirs.numpy(), rtol=1e-12, atol=1e-13)
        assert ours.shape == tuple(theirs.shape)


def test_gradients_to_order_two():
    x, y, z = draw((2, 3), (2, 3), (2, 3))
    labels = np.array([2, 0])
    target = np.full((2, 3), 0.3)
    for fn in (
        lambda x: losses.mse(x, y),
        lambda x: losses.huber(x, y, 0.8),
        lambda x: losses.bce_with_logits(x, target),
        lambda x: losses.cross_entropy(x, labels),
        lambda x: losses.kl_normal(x, x * z),
        lambda x: losses.gaussian_nll(y, x, x * z),
    ):
        check_grads(fn, [x], order=2)


def test_bce_and_cross_entropy_are_finite_far_out():
    z = tg.Tensor(np.array([-1e4, -200.0, 0.0, 200.0, 1e4], np.float32), requires_grad=True)
    loss = losses.bce_with_logits(z, np.array([0, 1, 0.5, 0, 1], np.float32), "none")
    assert np.allclose(loss.numpy(), [0, 200, math.log(2), 200, 0])
    assert np.isfinite(tg.grad(loss.sum(), z).numpy()).all()
    far = tg.Tensor(np.array([[1e4, -1e4], [-1e4, 1e4]], np.float32), requires_grad=True)
    loss = losses.cross_entropy(far, np.array([0, 0]), "none")
    assert np.allclose(loss.numpy(), [0, 2e4])
    assert np.allclose(tg.grad(loss.sum(), far).numpy(), [[0, 0], [-1, 1]])


def test_cross_entropy_over_leading_axes_in_float32():
    (z,) = draw((2, 3, 4, 7))
    labels = np.random.default_rng(0).integers(0, 7, (2, 3, 4))
    one_by_one = losses.cross_entropy(tg.Tensor(z.reshape(-1, 7)), labels.reshape(-1), "none").numpy()
    y = losses.cross_entropy(tg.Tensor(z.astype(np.float32)), labels, "none")
    assert y.shape == (2, 3, 4) and y.dtype == np.float32
    assert np.allclose(y.numpy().reshape(-1), one_by_one, rtol=1e-5)


def test_kl_is_summed_over_dimensions_and_averaged_over_the_batch():
    mean, logvar = draw((4, 3, 2), (4, 3, 2))
    exact = 0.5 * (mean**2 + np.exp(logvar) - 1 - logvar).sum((1, 2))
    assert np.allclose(losses.kl_normal(tg.Tensor(mean), tg.Tensor(logvar)).item(), exact.mean())
    assert np.allclose(losses.kl_normal(tg.Tensor(mean), tg.Tensor(logvar), "none").numpy(), exact)
    zero = tg.Tensor(np.zeros((4, 3)))
    assert losses.kl_normal(zero, zero).item() == 0


def test_gan_losses():
    real, fake = (tg.Tensor(a, requires_grad=True) for a in draw((6, 1), (6, 1)))
    s, q = real.numpy(), fake.numpy()
    p, r = 1 / (1 + np.exp(-s)), 1 / (1 + np.exp(-q))
    expected = {
        "non_saturating": (-np.log(p).mean() - np.log(1 - r).mean(), -np.log(r).mean()),
        "saturating": (-np.log(p).mean() - np.log(1 - r).mean(), np.log(1 - r).mean()),
        "hinge": (np.maximum(0, 1 - s).mean() + np.maximum(0, 1 + q).mean(), -q.mean()),
        "least_squares": (((s - 1) ** 2).mean() / 2 + (q**2).mean() / 2, ((q - 1) ** 2).mean() / 2),
        "wasserstein": (q.mean() - s.mean(), -q.mean()),
    }
    assert expected.keys() == losses.GAN_LOSSES.keys()
    for name, (d, g) in expected.items():
        pair = losses.GAN_LOSSES[name]
        assert np.allclose(pair.d(real, fake).item(), d) and np.allclose(pair.g(fake).item(), g)
        assert tg.grad(pair.d(real, fake), [real, fake])[1].shape == fake.shape


def test_gradient_penalty_of_a_linear_discriminator_is_exact():
    """D(x) = ⟨w, x⟩ has slope ‖w‖ everywhere; the wrong axes or a norm over the batch would show."""
    (w,) = draw((8, 8, 3))
    w /= np.linalg.norm(w)
    (x,) = draw((5, 8, 8, 3), seed=1)

    def D(scale):
        return lambda x: ops.sum(x * tg.Tensor(scale * w), axis=(1, 2, 3))

    assert abs(losses.gradient_penalty(D(1.0), x).item()) < 1e-20
    assert np.allclose(losses.gradient_penalty(D(3.0), x, reduction="none").numpy(), 4.0)
    assert np.allclose(losses.gradient_penalty(D(3.0), x, target=0.0).item(), 9.0)
    assert np.allclose(losses.r1_penalty(D(3.0), x).item(), 9.0)
    assert np.allclose(losses.gradient_penalty(lambda x: D(3.0)(x).reshape(5, 1), x).item(), 4.0)


def test_penalties_are_differentiable_in_the_parameters():
    (x,) = draw((3, 4))

    def network(w, v):
        return lambda x: ops.tanh(x @ w) @ v

    for penalty in (losses.gradient_penalty, losses.r1_penalty):
        check_grads(lambda w, v, f=penalty: f(network(w, v), x), draw((4, 5), (5, 1), seed=2), order=2)
    flat = tg.Tensor(np.zeros((4, 1)), requires_grad=True)
    assert np.isfinite(tg.grad(losses.gradient_penalty(lambda x: x @ flat, x), flat).numpy()).all()


def test_interpolate_uses_one_number_a_sample():
    real, fake = np.ones((2, 3, 3, 1), np.float32), np.zeros((2, 3, 3, 1), np.float32)
    between = losses.interpolate(real, fake, np.array([0.25, 0.75]))
    assert between.dtype == np.float32 and not between.requires_grad
    assert (between.numpy()[0] == 0.25).all() and (between.numpy()[1] == 0.75).all()


def test_errors():
    x = tg.Tensor(np.zeros((4, 1)))
    with pytest.raises(tg.ShapeError, match=r"needs a target of the prediction's shape; \(4, 1\) ≠ \(4,\)"):
        losses.mse(x, np.zeros(4))
    with pytest.raises(tg.ShapeError, match=r"kl_normal needs a target .*\(4, 1\) ≠ \(4, 2\)"):
        losses.kl_normal(x, tg.Tensor(np.zeros((4, 2))))
    with pytest.raises(ValueError, match="reduction is 'mean', 'sum' or 'none', not 'avg'"):
        losses.mse(x, x, "avg")
    logits = tg.Tensor(np.zeros((4, 3)))
    with pytest.raises(tg.ShapeError, match="needs 0 ≤ label < 3, the number of classes; got 3"):
        losses.cross_entropy(logits, np.array([0, 1, 2, 3]))
    with pytest.raises(tg.ShapeError, match="needs 0 ≤ label < 3, the number of classes; got -1"):
        losses.cross_entropy(logits, np.array([0, 1, 2, -1]))
    with pytest.raises(tg.ShapeError, match=r"shape without the last axis, \(4,\); got \(4, 1\)"):
        losses.cross_entropy(logits, np.zeros((4, 1), int))
    with pytest.raises(tg.DtypeError, match="needs integer labels, not float32"):
        losses.cross_entropy(logits, np.zeros(4, np.float32))
