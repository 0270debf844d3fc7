// What the tensor-core kernels share: settings of the layer, and what is read and computed for each tap.
//
// The settings arrive as macros: KH KW SH SW PH PW DH DW (kernel, stride, padding above and to the left, dilation), C
// (input channels), G (deformable groups), T (element type), SIGMOID (whether the mask is a logit).
#pragma once
#define FULL_PRECISION 0
#include "bilinear.cuh"

constexpr int TAPS = KH * KW;

struct Sizes {
    int batch, height, width, out_height, out_width;
};

// Strides of offsets and masks in elements; pixels of an image follow each other row by row.
struct Strides {
    int image, channel, pixel;
};

// Read offset and mask of a tap. `pixel` and `t` count the output pixels of an image, and the taps of all groups.
// Indices fit 32 bits: the caller checks that.
CONVKIT_INLINE Raw read(const T* offset, const Strides& so, const T* mask, const Strides& sm, int image, int t,
                        int pixel) {
    const T* o = offset + (image * so.image + pixel * so.pixel + 2 * t * so.channel);
    const T* m = mask + (image * sm.image + pixel * sm.pixel + t * sm.channel);
    return {to_float(o[0]), to_float(o[so.channel]), to_float(*m)};
}

// The sample of tap `tap` of a group for the output at (y, x).
CONVKIT_INLINE Sample sample_of(const Raw& raw, int tap, int y, int x, const Sizes& sizes) {
    return sample_at(raw, y * SH - PH + tap / KW * DH, x * SW - PW + tap % KW * DW, sizes.height, sizes.width);
}

// The upper left pixel of a sample, counted over the whole batch.
CONVKIT_INLINE unsigned corner_of(const Sample& sample, int image, const Sizes& sizes) {
    return unsigned((image * sizes.height + sample.row) * sizes.width + sample.column);
}
