"""Numbers that networks, files and training share, without PyTorch."""

import math

MID_GREY = 0.5  # pictures are centred around it: without, the first steps are spent on learning the mean
LEVELS, MIDDLE = 255, 128  # white, and what colours are centred around in a decoder of integers
GAIN_UNIT = 16  # log_gain is stored in 1/16 of a scale-index step

SUM_LIMIT = 2**24  # which no sum reaches in a decoder of integers: float32 holds what is below
LATENT_LIMIT = 2047  # of |mu| and |y_hat| in a decoder of integers
STEP_UNIT = 2**16  # its steps of residuals are whole numbers of 1/65536

# The standard deviations of residuals, log-spaced.
SCALE_COUNT = 64
SCALE_MIN, SCALE_MAX = 0.11, 256.0
INDEX_STEP = math.log(SCALE_MAX / SCALE_MIN) / (SCALE_COUNT - 1)  # natural logarithm per index step
