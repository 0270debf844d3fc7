// The activation behind the convolution. RELU says whether there is one.
#pragma once
#include "convkit.cuh"

// NaN stays NaN.
CONVKIT_INLINE float activate(float value) { return RELU && value < 0.f ? 0.f : value; }
