"""Every operation, by name. `registry` maps a name to its Op: op.name .inputs .attrs .rules .law .flops .__doc__

Reading order: elementwise, reduce, shape, index, linalg, conv, norm, attention, and the rest.
"""

import sys

from .. import tensor as _tensor
from ..tape import registry
from .activations import elu, gate, gelu, leaky_relu, log_sigmoid, relu, sigmoid, silu, softplus
from .attention import attention
from .conv import (
    conv1d,
    conv2d,
    conv2d_add,
    conv2d_input_grad,
    conv2d_weight_grad,
    conv_transpose1d,
    conv_transpose2d,
)
from .dropout import dropout
from .elementwise import (
    abs,
    add,
    alias,
    broadcast_to,
    cast,
    clip,
    cos,
    div,
    equal,
    erf,
    exp,
    expm1,
    floor,
    greater,
    greater_equal,
    isfinite,
    less,
    less_equal,
    log,
    log1p,
    logical_and,
    logical_not,
    logical_or,
    maximum,
    minimum,
    mul,
    neg,
    not_equal,
    power,
    round,
    rsqrt,
    sign,
    sin,
    sqrt,
    square,
    step,
    sub,
    sum_to,
    tanh,
    to_device,
    where,
    within,
)
from .index import (
    argsort,
    embedding,
    getitem,
    one_hot,
    put,
    put_along_axis,
    scatter,
    scatter_add,
    scatter_along_axis,
    scatter_at,
    sort,
    take,
    take_along_axis,
    topk,
)
from .linalg import cholesky, det, dot, einsum, inv, linear, logdet, matmul, outer, slogdet, solve, solve_triangular
from .norm import batch_norm, batch_norm_inference, group_norm, instance_norm, layer_norm, pixel_norm
from .pool import (
    avg_pool2d,
    global_avg_pool,
    max_pool2d,
    max_pool2d_taps,
    pick_pool2d,
    pick_unpool2d,
    sum_pool2d,
    sum_unpool2d,
)
from .reduce import (
    argmax,
    argmin,
    cumsum,
    log_softmax,
    log_softmax_pull,
    logsumexp,
    max,
    mean,
    min,
    norm,
    softmax,
    softmax_pull,
    spread,
    sum,
    ties,
    var,
)
from .resample import (
    blur,
    depth_to_space,
    fir,
    resize_bilinear,
    resize_bilinear_adjoint,
    resize_nearest,
    space_to_depth,
)
from .shape import (
    concat,
    expand_dims,
    flatten,
    flip,
    moveaxis,
    pad,
    repeat,
    reshape,
    roll,
    split,
    squeeze,
    stack,
    swapaxes,
    tile,
    transpose,
    tril,
    triu,
    unpad,
    unstack,
)
from .softmax_cross_entropy import softmax_cross_entropy

_tensor.ops = sys.modules[__name__]  # Tensor's operators and methods call the operations

__all__ = [
    "abs", "add", "alias", "argmax", "argmin", "argsort", "attention", "avg_pool2d", "batch_norm",
    "batch_norm_inference", "blur", "broadcast_to", "cast", "cholesky", "clip", "concat", "conv1d", "conv2d",
    "conv2d_add", "conv2d_input_grad", "conv2d_weight_grad", "conv_transpose1d", "conv_transpose2d", "cos", "cumsum",
    "depth_to_space", "det", "div", "dot", "dropout", "einsum", "elu", "embedding", "equal", "erf", "exp",
    "expand_dims", "expm1", "fir", "flatten", "flip", "floor", "gate", "gelu", "getitem", "global_avg_pool",
    "greater", "greater_equal", "group_norm", "instance_norm", "inv", "isfinite", "layer_norm", "leaky_relu", "less",
    "less_equal", "linear", "log", "log1p", "log_sigmoid", "log_softmax", "log_softmax_pull", "logdet", "logical_and",
    "logical_not", "logical_or", "logsumexp", "matmul", "max", "max_pool2d", "max_pool2d_taps", "maximum", "mean",
    "min", "minimum", "moveaxis", "mul", "neg", "norm", "not_equal", "one_hot", "outer", "pad", "pick_pool2d",
    "pick_unpool2d", "pixel_norm", "power", "put", "put_along_axis", "registry", "relu", "repeat", "reshape",
    "resize_bilinear", "resize_bilinear_adjoint", "resize_nearest", "roll", "round", "rsqrt", "scatter",
    "scatter_add", "scatter_along_axis", "scatter_at", "sigmoid", "sign", "silu", "sin", "slogdet", "softmax",
    "softmax_cross_entropy", "softmax_pull", "softplus", "solve", "solve_triangular", "sort", "space_to_depth",
    "split", "spread", "sqrt", "square", "squeeze", "stack", "step", "sub", "sum", "sum_pool2d", "sum_to",
    "sum_unpool2d", "swapaxes", "take", "take_along_axis", "tanh", "ties", "tile", "to_device", "topk", "transpose",
    "tril", "triu", "unpad", "unstack", "var", "where", "within",
]  # fmt: skip
