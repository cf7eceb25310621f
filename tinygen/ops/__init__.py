"""Every operation, by name. `registry` maps a name to its Op: op.name .inputs .attrs .rules .law .flops .__doc__"""

from .. import tensor as _tensor
from ..tape import registry
from .elementwise import *  # noqa: F403
from .activations import *  # noqa: F403
from .reduce import *  # noqa: F403
from .shape import *  # noqa: F403
from .index import *  # noqa: F403
from .linalg import *  # noqa: F403
from .pool import *  # noqa: F403
from .resample import *  # noqa: F403
from .conv import *  # noqa: F403
from .norm import *  # noqa: F403
from .attention import *  # noqa: F403
from .softmax_cross_entropy import *  # noqa: F403
from .dropout import *  # noqa: F403
from .reduce import norm  # noqa: F401  (the operation; importing the file norm.py had put the module in its place)

import sys as _sys

_tensor.ops = _sys.modules[__name__]

__all__ = [*registry, "registry"]
