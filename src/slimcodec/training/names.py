"""Names that a configuration may give to parts of training. Nothing here needs PyTorch."""

from typing import Literal, get_args

Kind = Literal["residuals", "banks", "corrections", "filters"]
TABLES: tuple[Kind, ...] = get_args(Kind)  # in the order in which they are made
PARTS = ("g_a", "h_a", "h_scale", "h_mean", "context", "g_s", "log_gain", "prior")  # of a codec and its prior
OPTIMIZERS = ("adam", "soap")
FEATURE_TERMS = ("encoder", "decoder", "hyper")  # each compares the features of a part of the network
DISTILLATION_TERMS = ("rate_distortion", "output", "latent", "hyper_latent", *FEATURE_TERMS)
