// What the kernels of the modulated deformable convolution share: where each tap samples, and with which weights.
//
// Settings of the layer arrive as macros: KH KW SH SW PH PW DH DW (kernel, stride, padding above and to the left,
// dilation), C (input channels), G (deformable groups), T (element type), SIGMOID (whether the mask still lacks it).
#pragma once
#include "convkit.cuh"

constexpr int TAPS = KH * KW;

struct Sizes {
    int batch, height, width, out_height, out_width;
};

// How offsets and masks lie in memory, in elements; pixels of a plane follow each other row by row.
struct Strides {
    int image, channel, pixel;
};

// One tap at one output pixel: the upper left of the four pixels that it reads, counted over the whole batch, and the
// weights of that one, its right, its lower and its diagonal neighbour, times the mask. The image has at least two rows
// and two columns, and the four always lie in it.
struct Sample {
    unsigned corner;
    float weight[4];
};

// Linear interpolation in an axis that is zero outside weighs a pixel at distance d with max(0, 1 - |d|). Where one of
// the two neighbours is outside, the pair moves to lie inside, and the rule gives the newcomer no weight. It gives
// none to both where the position is a whole pixel or more outside, infinite, or no number.
CONVKIT_INLINE int neighbours(float at, int size, float& first, float& second) {
    const float low = fminf(fmaxf(floorf(at), 0.f), float(size - 2)), distance = at - low;
    first = fmaxf(0.f, 1.f - fabsf(distance));
    second = fmaxf(0.f, 1.f - fabsf(distance - 1.f));
    return int(low);
}

CONVKIT_INLINE Sample place(float y, float x, float mask, int image, const Sizes& sizes) {
    Sample sample;
    float upper, lower, left, right;
    const int row = neighbours(y, sizes.height, upper, lower), column = neighbours(x, sizes.width, left, right);
    upper *= mask;
    lower *= mask;
    sample.weight[0] = upper * left;
    sample.weight[1] = upper * right;
    sample.weight[2] = lower * left;
    sample.weight[3] = lower * right;
    sample.corner = unsigned((image * sizes.height + row) * sizes.width + column);
    return sample;
}

// What the network predicts for a tap: displacement, and mask or its logit.
struct Raw {
    float y, x, mask;
};

// `pixel` and `t` count output pixels of an image, and taps of all groups. Indices fit 32 bits: the caller checks that.
CONVKIT_INLINE Raw read(const T* offset, const Strides& so, const T* mask, const Strides& sm, int image, int t,
                        int pixel) {
    const T* o = offset + (image * so.image + pixel * so.pixel + 2 * t * so.channel);
    const T* m = mask + (image * sm.image + pixel * sm.pixel + t * sm.channel);
    return {to_float(o[0]), to_float(o[so.channel]), to_float(*m)};
}

// The sample of tap `tap` for the output at (y, x) of an image.
CONVKIT_INLINE Sample sample_of(const Raw& raw, int image, int tap, int y, int x, const Sizes& sizes) {
    const float factor = SIGMOID ? __fdividef(1.f, 1.f + __expf(-raw.mask)) : raw.mask;
    const float at_y = float(y * SH - PH + tap / KW * DH) + raw.y, at_x = float(x * SW - PW + tap % KW * DW) + raw.x;
    return place(at_y, at_x, factor, image, sizes);
}
