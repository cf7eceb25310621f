"""Layers: plain classes over `tinygen.ops`. Start at module.py."""

from .init import Init
from .layers import Conv1d, Conv2d, ConvTranspose2d, Downsample, Embedding, Linear, Upsample
from .module import Module, ModuleList, Sequential
from .norms import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, SpectralNorm, WeightNorm
from .sequence import LSTM, FourierFeatures, LSTMCell, MultiHeadAttention, SinusoidalEmbedding, sinusoidal
from .simple import (
    ELU,
    GELU,
    Dropout,
    Flatten,
    Identity,
    Lambda,
    LeakyReLU,
    ReLU,
    Reshape,
    Sigmoid,
    SiLU,
    Tanh,
    streams,
)
from .summary import summary

__all__ = [
    "ELU", "GELU", "LSTM", "BatchNorm", "Conv1d", "Conv2d", "ConvTranspose2d", "Downsample", "Dropout", "Embedding",
    "Flatten", "FourierFeatures", "GroupNorm", "Identity", "Init", "InstanceNorm", "LSTMCell", "Lambda", "LayerNorm",
    "LeakyReLU", "Linear", "Module", "ModuleList", "MultiHeadAttention", "ReLU", "Reshape", "Sequential", "SiLU",
    "Sigmoid", "SinusoidalEmbedding", "SpectralNorm", "Tanh", "Upsample", "WeightNorm", "sinusoidal", "streams",
    "summary",
]  # fmt: skip
