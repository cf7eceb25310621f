"""Metrics: arrays in, float64 numbers out; nothing here touches the tape but the networks in nets/.

psnr ssim ms_ssim ssim_maps                pairs of images, every convention by name
frechet_distance frechet_infinity          two sets of features, by their moments; FeatureStatistics to stream them
kernel_distance cmmd                       by a kernel: KID, and CMMD
precision_recall density_coverage          by neighbours
inception_score vendi_score                one set: classes seen in it, different samples in it
embedded_frechet relative_frechet          against the real-against-real floor
memorisation_ratio authpct                 are the samples copies
bits_per_dim bound_report importance_weighted    likelihoods on one scale
extractor                                  features that need no download, and Inception's, that do
lpips LPIPS                                pairs of images, by the layers of a network
load_weights                               the published files that those need, read without running them
KernelJudge label_agreement                a held-out reader of labels
shapes_agreement shapes_coverage           pictures of shapes32 against their captions, by its exact parser
retrieval clip_score                       paired embeddings of pictures and texts
win_rate bradley_terry                     what people chose
ring_modes grid_modes                      toys with known answers
score_digits                               all of it, for the embedded digits

Where one set is real and one is not, they are given by name. `*_details` return the same number with both N, the
choices that moved it and a bootstrap interval; results of several numbers always carry theirs.
"""

from .baseline import (
    EmbeddedFrechet,
    Floor,
    RelativeFrechet,
    embedded_frechet,
    frechet_standard_error,
    real_floor,
    relative_frechet,
)
from .bits import bits_offset, bits_per_dim
from .bootstrap import Interval, bootstrap_interval, share_interval
from .clip import ClipScore, clip_score, clip_score_details
from .extractors import EMBEDDED, Extractor, Pixels, RandConv, extractor, extractors, frechet_label
from .frechet import FrechetDetails, frechet_distance, frechet_distance_details
from .human import BradleyTerry, WinRate, bradley_terry, wilson_interval, win_rate
from .image import ImageScore, luma, psnr, psnr_details
from .inception import InceptionScore, inception_score
from .infinity import FrechetInfinity, frechet_infinity
from .judge import KernelJudge, LabelAgreement, kl_to_uniform, label_agreement, label_histogram
from .likelihood import BoundReport, ImportanceWeighted, bound_report, importance_weighted
from .manifold import DensityCoverage, PrecisionRecall, density_coverage, precision_recall
from .memorisation import Authenticity, Memorisation, authpct, memorisation_ratio, nearest_distances
from .mmd import KernelDistance, cmmd, cmmd_details, kernel_distance, kernel_distance_details
from .modes import ModeReport, grid_centres, grid_modes, mode_coverage, ring_centres, ring_modes
from .nets.attributes import Attributes
from .nets.perceptual import LPIPS, lpips
from .retrieval import Retrieval, RetrievalRanks, retrieval
from .score import score_digits, score_lines
from .shapes_judge import ShapesAgreement, ShapesCoverage, shapes_agreement, shapes_coverage
from .ssim import SSIMMaps, ms_ssim, ms_ssim_details, ssim, ssim_details, ssim_maps
from .statistics import FeatureStatistics
from .vendi import VendiScore, vendi_details, vendi_score
from .weights import WeightFile, load_weights

__all__ = [
    "EMBEDDED",
    "LPIPS",
    "Attributes",
    "Authenticity",
    "BoundReport",
    "BradleyTerry",
    "ClipScore",
    "DensityCoverage",
    "EmbeddedFrechet",
    "Extractor",
    "FeatureStatistics",
    "Floor",
    "FrechetDetails",
    "FrechetInfinity",
    "ImageScore",
    "ImportanceWeighted",
    "InceptionScore",
    "Interval",
    "KernelDistance",
    "KernelJudge",
    "LabelAgreement",
    "Memorisation",
    "ModeReport",
    "Pixels",
    "PrecisionRecall",
    "RandConv",
    "RelativeFrechet",
    "Retrieval",
    "RetrievalRanks",
    "SSIMMaps",
    "ShapesAgreement",
    "ShapesCoverage",
    "VendiScore",
    "WeightFile",
    "WinRate",
    "authpct",
    "bits_offset",
    "bits_per_dim",
    "bootstrap_interval",
    "bound_report",
    "bradley_terry",
    "clip_score",
    "clip_score_details",
    "cmmd",
    "cmmd_details",
    "density_coverage",
    "embedded_frechet",
    "extractor",
    "extractors",
    "frechet_distance",
    "frechet_distance_details",
    "frechet_infinity",
    "frechet_label",
    "frechet_standard_error",
    "grid_centres",
    "grid_modes",
    "importance_weighted",
    "inception_score",
    "kernel_distance",
    "kernel_distance_details",
    "kl_to_uniform",
    "label_agreement",
    "label_histogram",
    "load_weights",
    "lpips",
    "luma",
    "memorisation_ratio",
    "mode_coverage",
    "ms_ssim",
    "ms_ssim_details",
    "nearest_distances",
    "precision_recall",
    "psnr",
    "psnr_details",
    "real_floor",
    "relative_frechet",
    "retrieval",
    "ring_centres",
    "ring_modes",
    "score_digits",
    "score_lines",
    "shapes_agreement",
    "shapes_coverage",
    "share_interval",
    "ssim",
    "ssim_details",
    "ssim_maps",
    "vendi_details",
    "vendi_score",
    "wilson_interval",
    "win_rate",
]
