// Bilinear sampling at a displaced tap, for all kernels of the modulated deformable convolution.
//
// T is the element type, SIGMOID says whether the mask is a logit. FULL_PRECISION (0 or 1) selects the exact
// exponential.
//
// The image is zero outside. A tap is the sum of four pixels of the image: where one of two neighbours is outside, the
// pair is moved inside, and the pixel that the tap does not touch gets the weight zero. A tap whose position is a whole
// pixel or more outside, infinite or NaN has four weights of zero and touches nothing.
//
// Pixels that are not finite: `touched` says which pixels a tap touches. A kernel that reads no others (plain.cu) is
// exact for any x. One that reads all four and relies on the weights (tensor.cu, hopper.cu) needs a finite x, since
// zero times infinity or NaN is NaN.
#pragma once
#include "convkit.cuh"

// What the network predicts for a tap: its displacement in pixels, and its mask or the logit of that.
struct Raw {
    float y, x, mask;
};

// A tap in one axis: the first of the two pixels, which both lie in an image of two or more; their weights; and whether
// the tap touches them.
struct Axis {
    int first;
    float weight[2];
    bool touched[2];
};

// Displacement and base are split into whole pixels and a fraction before they are added, which rounds nothing as long
// as whole coordinates are exact in float.
CONVKIT_INLINE Axis axis_of(int base, float displacement, int size) {
    const float whole = floorf(displacement), fraction = displacement - whole, low = float(base) + whole;
    const float first = fmaxf(fminf(low, float(size - 2)), 0.f), distance = fraction + (low - first);
    const bool inside = low >= -1.f && low < float(size) && (low >= 0.f || fraction > 0.f);  // false for NaN
    Axis axis;
    axis.first = int(first);
    axis.weight[0] = fmaxf(0.f, 1.f - fabsf(distance));
    axis.weight[1] = fmaxf(0.f, 1.f - fabsf(distance - 1.f));
    axis.touched[0] = inside && low <= first;
    axis.touched[1] = inside && low >= first && first + 1.f < float(size);
    return axis;
}

// A tap: its upper left pixel, and weights of that one, its right, its lower and its diagonal neighbour, times the
// mask.
struct Sample {
    int row, column;
    float weight[4];
    unsigned touched;  // one bit for each of the four
};

CONVKIT_INLINE float mask_of(float raw) {
    if (!SIGMOID) return raw;
    return FULL_PRECISION ? 1.f / (1.f + expf(-raw)) : __fdividef(1.f, 1.f + __expf(-raw));
}

// The sample of a tap that would lie at (y, x) without its displacement.
CONVKIT_INLINE Sample sample_at(const Raw& raw, int y, int x, int height, int width) {
    const Axis vertical = axis_of(y, raw.y, height), horizontal = axis_of(x, raw.x, width);
    const float mask = mask_of(raw.mask), upper = vertical.weight[0] * mask, lower = vertical.weight[1] * mask;
    const unsigned columns = unsigned(horizontal.touched[0]) | unsigned(horizontal.touched[1]) << 1;
    return {vertical.first,
            horizontal.first,
            {upper * horizontal.weight[0], upper * horizontal.weight[1], lower * horizontal.weight[0],
             lower * horizontal.weight[1]},
            (vertical.touched[0] ? columns : 0u) | (vertical.touched[1] ? columns << 2 : 0u)};
}
