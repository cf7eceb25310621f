"""The weight files that a user gives, told apart by what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinygen.errors import DataError

from .extractors import Extractor, extractor
from .nets.perceptual import LPIPS
from .weights import WeightFile, load_weights


class Networks:
    """The weight files that were given, by what they hold."""

    def __init__(self, files: Sequence[str], resize: str):
        self.inception: Any = None
        self.lpips: Any = None
        for path in files:
            file = load_weights(path)
            names = {name.removeprefix("net.") for name in file.arrays}
            if any(name.startswith("Mixed_5b.") for name in names):
                from .nets.features import InceptionFeatures

                self.inception = InceptionFeatures(file, resize)
            elif any("features." in name or ".slice" in name or name.startswith("slice") for name in names):
                self.lpips = LPIPS(_trunk(file), file)
            else:
                raise DataError(f"{path} holds neither Inception-v3 nor a trunk of LPIPS (AlexNet, VGG-16, "
                                f"SqueezeNet), by the names of its tensors ({', '.join(sorted(names)[:3])}, "
                                "…).")  # fmt: skip

    def extractor(self, name: str) -> Extractor:
        if name.partition("/")[0] != "inception":
            return extractor(name)
        if self.inception is None:
            return extractor(name)  # which says what it needs
        return self.inception


def _trunk(file: WeightFile) -> str:
    names = " ".join(file.arrays)
    return "squeeze" if "squeeze" in names else "vgg" if ".28.weight" in names else "alex"
