"""Metrics: arrays in, float64 numbers out; nothing here touches the tape.

psnr ssim ms_ssim                          pairs of images
frechet_distance relative_frechet          two sets of features, and against the real-against-real floor
extractor                                  features that need no download
KernelJudge memorisation_ratio             a held-out reader of labels; are the samples copies
ring_modes grid_modes bits_per_dim         toys with known answers; likelihoods on one scale
score_digits                               all of it, for the embedded digits
"""

from .baseline import Floor, RelativeFrechet, frechet_standard_error, real_floor, relative_frechet
from .bits import bits_offset, bits_per_dim
from .extractors import Pixels, RandConv, extractor, extractors, frechet_label
from .frechet import FeatureStatistics, FrechetDetails, frechet_distance, frechet_distance_details
from .image import luma, ms_ssim, psnr, ssim
from .judge import KernelJudge, kl_to_uniform, label_histogram
from .memorisation import Memorisation, memorisation_ratio, nearest_distances
from .modes import ModeReport, grid_centres, grid_modes, mode_coverage, ring_centres, ring_modes
from .score import score_digits, score_lines

__all__ = [
    "FeatureStatistics",
    "Floor",
    "FrechetDetails",
    "KernelJudge",
    "Memorisation",
    "ModeReport",
    "Pixels",
    "RandConv",
    "RelativeFrechet",
    "bits_offset",
    "bits_per_dim",
    "extractor",
    "extractors",
    "frechet_distance",
    "frechet_distance_details",
    "frechet_label",
    "frechet_standard_error",
    "grid_centres",
    "grid_modes",
    "kl_to_uniform",
    "label_histogram",
    "luma",
    "memorisation_ratio",
    "mode_coverage",
    "ms_ssim",
    "nearest_distances",
    "psnr",
    "real_floor",
    "relative_frechet",
    "ring_centres",
    "ring_modes",
    "score_digits",
    "score_lines",
    "ssim",
]
