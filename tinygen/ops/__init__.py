"""Every operation, by name. `registry` maps a name to its Op: op.name .inputs .attrs .rules .law .flops .__doc__"""

from .. import tensor as _tensor
from ..tape import registry
from .elementwise import *  # noqa: F403
from .activations import *  # noqa: F403
from .reduce import *  # noqa: F403
from .shape import *  # noqa: F403

import sys as _sys

_tensor.ops = _sys.modules[__name__]

__all__ = [*registry, "registry"]
