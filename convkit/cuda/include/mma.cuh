// Instructions of sm_80 for matrix products: asynchronous copies to shared memory, and the product of a warp.
//
// With TF32 the operands are float, of which the product uses 10 bits of the fraction; else BF16 says which of the
// 16-bit types they are. The functions do the same on the host, where lanes exchange their operands.
#pragma once
#include "convkit.cuh"

#if CONVKIT_DEVICE

CONVKIT_INLINE void copy16(void* shared, const void* global) {
    unsigned address;
    asm("{\n.reg .u64 a;\ncvta.to.shared.u64 a, %1;\ncvt.u32.u64 %0, a;\n}\n" : "=r"(address) : "l"(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(global) : "memory");
}

// End a group of copies; wait until at most LATER groups are in flight.
CONVKIT_INLINE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int LATER>
CONVKIT_INLINE void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LATER) : "memory");
}

CONVKIT_INLINE void mma(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
#if TF32
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
#elif BF16
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
#else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
#endif
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#else

CONVKIT_INLINE void copy16(void* shared, const void* global) { *(uint4*)shared = *(const uint4*)global; }
CONVKIT_INLINE void commit_copies() {}
template <int LATER>
CONVKIT_INLINE void wait_copies() {}

CONVKIT_INLINE float dot(unsigned a, unsigned b) {
#if TF32
    return __uint_as_float(a & ~0x1fffu) * __uint_as_float(b & ~0x1fffu);
#else
    const float2 x = unpack2<T>(a), y = unpack2<T>(b);
    return x.x * y.x + x.y * y.y;
#endif
}

// Lane 4 g + q has words q (a[0], a[1]) and q + 4 (a[2], a[3]) of rows g and g + 8 of a; words q and q + 4 of column g
// of b; columns 2 q and 2 q + 1 of rows g (d[0], d[1]) and g + 8 of d. A word is two columns, or one with TF32.
CONVKIT_INLINE void mma(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    const int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
    for (int t = 0; t < 4; ++t) {
        unsigned row[4], column[2][2];
        for (int i = 0; i < 4; ++i) row[i] = __shfl_sync(0xffffffffu, a[i], g * 4 + t);
        for (int n = 0; n < 2; ++n) {
            column[n][0] = __shfl_sync(0xffffffffu, b0, (2 * q + n) * 4 + t);
            column[n][1] = __shfl_sync(0xffffffffu, b1, (2 * q + n) * 4 + t);
        }
        for (int i = 0; i < 4; ++i) {
            const int n = i % 2, below = i / 2;
            d[i] += dot(row[below], column[n][0]) + dot(row[below + 2], column[n][1]);
        }
    }
}

#endif
