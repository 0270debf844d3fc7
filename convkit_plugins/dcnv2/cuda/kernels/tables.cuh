// Tables in shared memory that tell where each row of a tile samples, and with which weights.
//
// A table is for one patch of 64 pixels. For each tap of each group it holds the bilinear weights of all rows, then for
// each tap the upper left corners. Rows of 16 bytes are read at once; the distance of taps lets entries be written with
// few conflicts.
#pragma once
#include "gather.cuh"
#include "hopper.cuh"

constexpr int ROWS = 64;  // pixels of a patch
constexpr int ALL_TAPS = G * TAPS;
constexpr int WEIGHT_SIZE = BLEND_FLOAT ? 16 : 8, WEIGHT_PITCH = (BLEND_FLOAT ? 65 : 66) * WEIGHT_SIZE;
constexpr int CORNER_PITCH = 68 * 4, CORNERS = ALL_TAPS * WEIGHT_PITCH, TABLE_BYTES = CORNERS + ALL_TAPS * CORNER_PITCH;

// Where a patch lies.
struct Patch {
    int image, y, x;
};

// How COUNT threads share the samples of a patch: where one of them begins, and how far it goes in each pass. Offsets
// are read along pixels where these are neighbours in memory, else along taps.
template <int COUNT>
struct Walk {
    int row, tap, rows, taps, passes;

    CONVKIT_INLINE Walk(unsigned index, bool along_pixels) {
        if (!along_pixels && ALL_TAPS <= COUNT) {
            rows = COUNT / (ALL_TAPS < COUNT ? ALL_TAPS : COUNT), taps = 0;
            row = index / ALL_TAPS, tap = index % ALL_TAPS;
            if (row >= rows) row = ROWS;
            passes = (ROWS + rows - 1) / rows;
        } else {
            rows = 0, taps = COUNT / ROWS;
            row = index % ROWS, tap = index / ROWS;
            if (tap >= taps) tap = ALL_TAPS;
            passes = (ALL_TAPS + taps - 1) / taps;
        }
    }
};

// Bilinear weights in a table: floats, or halves.
CONVKIT_INLINE void write_weights(unsigned char* to, const Sample& s) {
    if (BLEND_FLOAT)
        *(float4*)to = make_float4(s.weight[0], s.weight[1], s.weight[2], s.weight[3]);
    else
        *(uint2*)to = make_uint2(pack2<half_t>(s.weight[0], s.weight[1]), pack2<half_t>(s.weight[2], s.weight[3]));
}

// A half of a word, twice. Said so, the compiler has the multiplication select it.
template <bool UPPER>
CONVKIT_INLINE unsigned twice_half(unsigned v) {
#if CONVKIT_DEVICE
    unsigned short low, high;
    asm("mov.b32 {%0, %1}, %2;" : "=h"(low), "=h"(high) : "r"(v));
    unsigned result;
    asm("mov.b32 %0, {%1, %1};" : "=r"(result) : "h"(UPPER ? high : low));
    return result;
#else
    return __byte_perm(v, 0, UPPER ? 0x3232 : 0x1010);
#endif
}

// The weights of a thread's j-th row; an even one is read together with the next.
struct RowWeights {
    uint4 two;

    CONVKIT_INLINE Weights of(Shared row, int j) {
        if (BLEND_FLOAT) return weights_at(load_shared(row + j * WEIGHT_SIZE));
        if (j % 2 == 0) two = load_shared(row + j * WEIGHT_SIZE);
        const unsigned first = j % 2 ? two.z : two.x, last = j % 2 ? two.w : two.y;
        return weights_at(make_uint4(twice_half<false>(first), twice_half<true>(first),
                                     twice_half<false>(last), twice_half<true>(last)));
    }
};
