"""Numbers that networks, files and training share, without PyTorch."""

import math

MID_GREY = 0.5  # pictures are centred around it: without, the first steps are spent on learning the mean
GAIN_UNIT = 16  # log_gain is stored in 1/16 of a scale-index step

# The standard deviations of residuals, log-spaced.
SCALE_COUNT = 64
SCALE_MIN, SCALE_MAX = 0.11, 256.0
INDEX_STEP = math.log(SCALE_MAX / SCALE_MIN) / (SCALE_COUNT - 1)  # natural logarithm per index step
