// Sampled pixels as operands of a matrix product, straight from global memory into registers.
//
// The matrix instruction takes from each lane two words of rows lane / 4 and lane / 4 + 8, at columns that depend on
// lane % 4. The order of the columns is free as long as the weights have the same, so thread q of four takes bytes 16 q
// to 16 q + 15, and the same of the next 64 bytes: two instructions each.
//
// The L1 cache serves one line of 128 bytes at a time, so eight threads load a whole line of one pixel. For every two
// rows, each thread blends one piece of both; then the four lower and the four upper threads exchange pieces.
#pragma once
#include "deform.cuh"

constexpr int PIECE = 16 / int(sizeof(T));  // channels of one load
constexpr int CHUNK = 8 * PIECE;            // channels of 128 bytes, one tile of weights
constexpr int PIXEL_BYTES = C * int(sizeof(T));

// Bilinear weights in the form of the blending: floats, or each half twice.
#if BLEND_FLOAT
struct Weights {
    float4 w;
};
CONVKIT_INLINE Weights weights_of(const Sample& s) {
    return {make_float4(s.weight[0], s.weight[1], s.weight[2], s.weight[3])};
}
CONVKIT_INLINE Weights weights_at(const uint4& v) {
    return {make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w))};
}
#else
struct Weights {
    uint4 w;
};
CONVKIT_INLINE unsigned twice(float value) { return pack2<half_t>(value, value); }
CONVKIT_INLINE Weights weights_of(const Sample& s) {
    return {make_uint4(twice(s.weight[0]), twice(s.weight[1]), twice(s.weight[2]), twice(s.weight[3]))};
}
CONVKIT_INLINE Weights weights_at(const uint4& v) { return {v}; }
#endif

// The same 16 bytes of a pixel and its three neighbours; the next row is `down` bytes away.
CONVKIT_INLINE void fetch(uint4 (&v)[4], const char* upper, unsigned down) {
    const char* lower = upper + down;
    v[0] = __ldg((const uint4*)upper);
    v[1] = __ldg((const uint4*)(upper + PIXEL_BYTES));
    v[2] = __ldg((const uint4*)lower);
    v[3] = __ldg((const uint4*)(lower + PIXEL_BYTES));
}

#if !BLEND_FLOAT
CONVKIT_INLINE unsigned multiply(unsigned a, unsigned b) {
#if CONVKIT_DEVICE
    unsigned result;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
    return result;
#else
    const float2 x = unpack2<half_t>(a), y = unpack2<half_t>(b);
    return pack2<half_t>(x.x * y.x, x.y * y.y);
#endif
}
CONVKIT_INLINE unsigned multiply_add(unsigned a, unsigned b, unsigned c) {
#if CONVKIT_DEVICE
    unsigned result;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
    return result;
#else
    const float2 x = unpack2<half_t>(a), y = unpack2<half_t>(b), z = unpack2<half_t>(c);
    return pack2<half_t>(fmaf(x.x, y.x, z.x), fmaf(x.y, y.y, z.y));
#endif
}
#endif

// One word of the operand from the same word of the four corners.
CONVKIT_INLINE unsigned blend(unsigned a, unsigned b, unsigned c, unsigned d, const Weights& weights) {
#if BLEND_FLOAT
    const float4 w = weights.w;
#if TF32  // rounded to 10 bits of the fraction; rounding could turn a NaN into 0, so it gets a fixed pattern
    float sum = w.x * __uint_as_float(a);
    sum = fmaf(w.y, __uint_as_float(b), sum);
    sum = fmaf(w.z, __uint_as_float(c), sum);
    sum = fmaf(w.w, __uint_as_float(d), sum);
    return sum == sum ? (__float_as_uint(sum) + 0x1000u) & ~0x1fffu : 0x7fffffffu;
#else
    const float2 p = unpack2<T>(a), q = unpack2<T>(b), r = unpack2<T>(c), s = unpack2<T>(d);
    return pack2<T>(fmaf(w.w, s.x, fmaf(w.z, r.x, fmaf(w.y, q.x, w.x * p.x))),
                    fmaf(w.w, s.y, fmaf(w.z, r.y, fmaf(w.y, q.y, w.x * p.y))));
#endif
#else
    const uint4 w = weights.w;
    return multiply_add(w.w, d, multiply_add(w.z, c, multiply_add(w.y, b, multiply(w.x, a))));
#endif
}

CONVKIT_INLINE void blend(unsigned (&word)[4], const uint4 (&v)[4], const Weights& w) {
    word[0] = blend(v[0].x, v[1].x, v[2].x, v[3].x, w);
    word[1] = blend(v[0].y, v[1].y, v[2].y, v[3].y, w);
    word[2] = blend(v[0].z, v[1].z, v[2].z, v[3].z, w);
    word[3] = blend(v[0].w, v[1].w, v[2].w, v[3].w, w);
}

// Fill the operands a[half][step] of row 0 (`row` 0) or 8 (`row` 1) from this thread's pieces of the two neighbouring
// rows that its group of eight threads has sampled.
CONVKIT_INLINE void exchange(unsigned (&a)[2][2][4], int row, const unsigned (&first)[4], const unsigned (&second)[4],
                             bool upper) {
#pragma unroll
    for (int word = 0; word < 4; ++word) {
        const unsigned received = __shfl_xor_sync(0xffffffffu, upper ? first[word] : second[word], 4);
        a[0][word / 2][row + word % 2 * 2] = upper ? received : first[word];
        a[1][word / 2][row + word % 2 * 2] = upper ? second[word] : received;
    }
}
