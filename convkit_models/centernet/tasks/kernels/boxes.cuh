// Scores and boxes, in the same operations as the host's decode, so that results are equal to the bit.
//
// Multiplications and additions are not fused, because the host does not fuse them.
#ifndef CENTERNET_BOXES_CUH
#define CENTERNET_BOXES_CUH

#include "convkit.cuh"

constexpr int MATRIX = 8;  // numbers per image: a 2 x 3 matrix from the output map to the image, the map's width, and 0

CONVKIT_INLINE double times(double a, double b) {
#if CONVKIT_DEVICE
    return __dmul_rn(a, b);
#else
    return a * b;
#endif
}

CONVKIT_INLINE double plus(double a, double b) {
#if CONVKIT_DEVICE
    return __dadd_rn(a, b);
#else
    return a + b;
#endif
}

// 1 / (1 + exp(-logit)) in float64, rounded to float32. The exponential is a Taylor polynomial around the nearest
// multiple of log 2. Beyond 700 the result is 0 or 1 in float32 anyway.
CONVKIT_INLINE float sigmoid(float logit) {
    const double x = fmin(fmax(-static_cast<double>(logit), -700.0), 700.0);
    const double n = rint(times(x, 1.4426950408889634));
    const double r = plus(plus(x, times(n, -0.6931471803691238)), times(n, -1.9082149292705877e-10));
    double sum = 1.6059043836821613e-10;
    sum = plus(times(sum, r), 2.08767569878681e-09);
    sum = plus(times(sum, r), 2.505210838544172e-08);
    sum = plus(times(sum, r), 2.755731922398589e-07);
    sum = plus(times(sum, r), 2.7557319223985893e-06);
    sum = plus(times(sum, r), 2.48015873015873e-05);
    sum = plus(times(sum, r), 0.0001984126984126984);
    sum = plus(times(sum, r), 0.001388888888888889);
    sum = plus(times(sum, r), 0.008333333333333333);
    sum = plus(times(sum, r), 0.041666666666666664);
    sum = plus(times(sum, r), 0.16666666666666666);
    sum = plus(times(sum, r), 0.5);
    sum = plus(times(sum, r), 1.0);
    sum = plus(times(sum, r), 1.0);
    const long long bits = (static_cast<long long>(n) + 1023) << 52;
    double power;
#if CONVKIT_DEVICE
    power = __longlong_as_double(bits);
#else
    memcpy(&power, &bits, sizeof power);
#endif
    return static_cast<float>(1.0 / plus(1.0, times(sum, power)));
}

// The image's coordinate of a point of the output map, by one row of the matrix.
CONVKIT_INLINE float to_image(const double* row, float x, float y) {
    return static_cast<float>(plus(plus(times(row[0], x), times(row[1], y)), row[2]));
}

// Two corners (x, y), (z, w), in cells, as pixels of the image.
CONVKIT_INLINE float4 to_image(const double* output_to_image, float4 corners) {
    const double *first = output_to_image, *second = output_to_image + 3;
    return make_float4(to_image(first, corners.x, corners.y), to_image(second, corners.x, corners.y),
                       to_image(first, corners.z, corners.w), to_image(second, corners.z, corners.w));
}

// Write one row: a box in the image with its score and class.
CONVKIT_INLINE void write_row(float* row, float4 box, float score, float label) {
    row[0] = box.x;
    row[1] = box.y;
    row[2] = box.z;
    row[3] = box.w;
    row[4] = score;
    row[5] = label;
}

// Write a row without a box.
CONVKIT_INLINE void clear_row(float* row) {
#pragma unroll
    for (int column = 0; column < 6; ++column) row[column] = 0.0f;
}

#endif
