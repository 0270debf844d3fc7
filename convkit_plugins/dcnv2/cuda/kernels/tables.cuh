// Tables in shared memory: where each row of a tile of samples is read, and with which weights.
//
// A table is for one patch of 64 pixels, which are its rows. It contains the bilinear weights [tap of all groups][row],
// then the upper left pixels [tap][row]. Reads are 16 bytes wide; the pitch of taps keeps bank conflicts of writes low.
#pragma once
#include "gather.cuh"
#include "hopper.cuh"

constexpr int ROWS = 64;  // pixels of a patch
constexpr int ALL_TAPS = G * TAPS;
constexpr int WEIGHT_SIZE = BLEND_FLOAT ? 16 : 8, WEIGHT_PITCH = (BLEND_FLOAT ? 65 : 66) * WEIGHT_SIZE;
constexpr int CORNER_PITCH = 68 * 4, CORNERS = ALL_TAPS * WEIGHT_PITCH, TABLE_BYTES = CORNERS + ALL_TAPS * CORNER_PITCH;

// A patch: its image, and the output pixel at its upper left.
struct Patch {
    int image, y, x;
};

// The division of the samples of a patch among COUNT threads: the first row and tap of a thread, and its steps per
// pass. Neighbouring threads take neighbouring pixels where these are neighbours in memory, else neighbouring taps.
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

// Write the bilinear weights of a sample, as floats or halves.
CONVKIT_INLINE void write_weights(unsigned char* to, const Sample& s) {
    if (BLEND_FLOAT)
        *(float4*)to = make_float4(s.weight[0], s.weight[1], s.weight[2], s.weight[3]);
    else
        *(uint2*)to = make_uint2(pack2<half_t>(s.weight[0], s.weight[1]), pack2<half_t>(s.weight[2], s.weight[3]));
}

// Broadcast one half of a word. Written like this, ptxas folds it into the operand selector of HFMA2.
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

// The weights of a thread's rows. In float16, those of an even row and the next are loaded together.
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
