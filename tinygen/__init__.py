"""tinygen: a small deep-learning engine whose every operation can be read, checked and traced, and the generative
image models on top of it. Start reading at tape.py."""

from . import backend, errors, ops
from .tape import grad, no_grad
from .tensor import Tensor
