// From the sums of a matrix product to the output tensor: which output a thread's sum belongs to, bias, ReLU, store.
//
// The accumulator layout of a warp is the same for mma.m16n8 and wgmma.m64n: a warp has 16 pixels, and lane 4 g + q has
// of every 8 columns the columns 2 q and 2 q + 1 of pixels g and g + 8. The weights are packed so that the product's
// columns are permuted within 32 (`_column_order` in _weights.py), which makes the outputs of a thread neighbours: 8
// channels from 8 q on of every 32.
//
// Outputs of a thread are numbered o = 16 b + 8 h + i: channel i of the 8 in block b of 32 columns, of pixel g + 8 h.
#pragma once
#include "activation.cuh"
#include "deform.cuh"

// Index of output o among the accumulators of the thread.
CONVKIT_INLINE constexpr int sum_of(int o) { return (o / 16 * 4 + o % 8 / 2) * 4 + o / 8 % 2 * 2 + o % 2; }

// Output channel of o, counted from the first of the tile.
CONVKIT_INLINE constexpr int column_of(unsigned thread, int o) { return o / 16 * 32 + thread % 4 * 8 + o % 8; }

// Pixel of o; warps have 16 pixels each.
CONVKIT_INLINE constexpr int row_of(unsigned thread, int o) {
    return thread / 32 * 16 + thread % 32 / 4 + o / 8 % 2 * 8;
}

// Add the bias to COUNT neighbouring channels of a pixel, apply the ReLU, and write those below N.
//
// `pixel` is the address of channel 0; `plane` is the distance of channels where the output is NCHW. With VECTORS, 16
// bytes are written at a time where the output is channels-last and its channels are multiples of 8: addresses must be
// aligned.
template <int COUNT, bool VECTORS>
CONVKIT_INLINE void store(T* pixel, int channel, long long plane, const float* sums, const float* bias) {
    float value[COUNT];
#pragma unroll
    for (int i = 0; i < COUNT; ++i) value[i] = activate(sums[i] + bias[i]);
    if constexpr (VECTORS && !OUT_PLANES && N % 8 == 0) {
        unsigned word[COUNT / 2];
#pragma unroll
        for (int i = 0; i < COUNT / 2; ++i) word[i] = pack2<T>(value[2 * i], value[2 * i + 1]);
        if constexpr (COUNT == 8) {
            *(uint4*)(pixel + channel) = make_uint4(word[0], word[1], word[2], word[3]);
        } else {
#pragma unroll
            for (int i = 0; i < COUNT / 2; ++i) *(unsigned*)(pixel + channel + 2 * i) = word[i];
        }
    } else {
#pragma unroll
        for (int i = 0; i < COUNT; ++i)
            if (N % COUNT == 0 || channel + i < N)
                pixel[(OUT_PLANES ? plane : 1ll) * (channel + i)] = from_float<T>(value[i]);
    }
}
