"""Names that a configuration may give to parts of training. Nothing here needs PyTorch."""

TABLES = ("residuals", "banks", "corrections", "filters")  # kinds, in the order in which they are made
OPTIMIZERS = ("adam", "soap")
FEATURE_TERMS = ("encoder", "decoder", "hyper")  # each compares the features of a part of the network
DISTILLATION_TERMS = ("rate_distortion", "output", "latent", "hyper_latent", *FEATURE_TERMS)
