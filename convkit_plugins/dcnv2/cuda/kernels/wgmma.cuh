// Warpgroup matrix products of Hopper (sm_90a): 64 rows times columns, both from shared memory.
//
// ELEMENT is the type of the operands: "f16" or "bf16"; the sums are float. On the host, each thread computes its sums
// when it waits for them, and a warpgroup may have 64 products in flight.
#pragma once
#include "convkit.cuh"
#include "hopper.cuh"

// The matrix descriptor of an operand tile with 64 values per row. Bits 0 to 13: address in units of 16 bytes. Bits 16
// to 29: leading dimension offset, not used here. Bits 32 to 45: distance of eight rows, in the same units. Bit 62:
// 128-byte swizzle, that is, 16-byte piece i of row r is at i ^ (r % 8). A tile starts at a multiple of 1024 bytes, so
// adding an `offset` within a row never carries.
CONVKIT_INLINE unsigned long long descriptor_of(unsigned address, unsigned offset) {
    const unsigned low = (((address >> 4) & 0x3fffu) | (1u << 16)) + (offset >> 4), high = 64u | (1u << 30);
    return (unsigned long long)high << 32 | low;
}

#if CONVKIT_DEVICE

CONVKIT_INLINE unsigned long long descriptor(Shared tile, unsigned offset) { return descriptor_of(tile, offset); }

// Products are issued between begin and end and run asynchronously until they are waited for.
CONVKIT_INLINE void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
CONVKIT_INLINE void wgmma_end() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Wait until at most COUNT groups of products are running.
template <int COUNT>
CONVKIT_INLINE void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(COUNT) : "memory");
}

// Make the compiler assume that a value changes here.
CONVKIT_INLINE void change(float& value) { asm volatile("" : "+f"(value)::"memory"); }

// The accumulators of a thread in the text of an instruction, and as its operands.
#define WGMMA_NAMES_32 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define WGMMA_NAMES_64 WGMMA_NAMES_32 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define WGMMA_NAMES_128 WGMMA_NAMES_64 \
    ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
    ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define WGMMA_NAMES_256 WGMMA_NAMES_128 \
    ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
    ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95" \
    ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
    ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define WGMMA_8(i)                                                                                            \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
        "+f"(d[i + 7])
#define WGMMA_SUMS_32 WGMMA_8(0), WGMMA_8(8)
#define WGMMA_SUMS_64 WGMMA_SUMS_32, WGMMA_8(16), WGMMA_8(24)
#define WGMMA_SUMS_128 WGMMA_SUMS_64, WGMMA_8(32), WGMMA_8(40), WGMMA_8(48), WGMMA_8(56)
#define WGMMA_SUMS_256                                                                                \
    WGMMA_SUMS_128, WGMMA_8(64), WGMMA_8(72), WGMMA_8(80), WGMMA_8(88), WGMMA_8(96), WGMMA_8(104), WGMMA_8(112), \
        WGMMA_8(120)
#define WGMMA(columns, a_name, b_name)                                                                          \
    CONVKIT_INLINE void wgmma(float (&d)[columns / 2], unsigned long long a, unsigned long long b) {            \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." ELEMENT "." ELEMENT                \
                     " {" WGMMA_NAMES_##columns "}, " a_name ", " b_name ", 1, 1, 1, 0, 0;\n"                   \
                     : WGMMA_SUMS_##columns                                                                     \
                     : "l"(a), "l"(b));                                                                         \
    }
WGMMA(32, "%16", "%17")
WGMMA(64, "%32", "%33")
WGMMA(128, "%64", "%65")
WGMMA(256, "%128", "%129")

#else

CONVKIT_INLINE unsigned long long descriptor(Shared tile, unsigned offset) {
    return (unsigned long long)tile + offset;
}

// Word `word` (two values along the sum) of row or column n.
CONVKIT_INLINE unsigned word_of(unsigned long long tile, int n, int word) {
    const unsigned long long start = tile & ~127ull, along = (tile & 127) + word * 4;
    return *(const unsigned*)(start + n * 128 + ((along / 16 ^ n % 8) * 16) + along % 16);
}

struct Product {
    unsigned long long a, b;
    float* sums;
    unsigned columns, group;
};
struct Products {
    unsigned count, groups;
    Product list[64];

    // Lane 4 g + q of warp w has columns 2 q and 2 q + 1 of every 8: those of row 16 w + g in sums[4 j] and
    // sums[4 j + 1], those of row 16 w + g + 8 in the next two.
    void compute(const Product& product) {
        const int lane = threadIdx.x % 32, row = threadIdx.x % 128 / 32 * 16 + lane / 4;
        for (int i = 0; i < int(product.columns) / 2; ++i) {
            const int n = i / 4 * 8 + lane % 4 * 2 + i % 2;
            for (int t = 0; t < 8; ++t) {
                const float2 x = unpack2<T>(word_of(product.a, row + i / 2 % 2 * 8, t));
                const float2 y = unpack2<T>(word_of(product.b, n, t));
                product.sums[i] += x.x * y.x + x.y * y.y;
            }
        }
    }
    void finish(unsigned running) {  // all but the last groups
        unsigned done = 0;
        while (done < count && list[done].group + running < groups) compute(list[done++]);
        for (unsigned i = done; i < count; ++i) list[i - done] = list[i];
        count -= done;
    }
};
static Products products[1024];
__shared__ unsigned no_products_yet;  // all bits are set before each block

// Products begin and end for the four warps together.
CONVKIT_INLINE void wgmma_begin() {
    {
        const convkit_host::Quiet quiet;
        if (no_products_yet)
            for (Products& of_thread : products) of_thread.count = of_thread.groups = 0;
        no_products_yet = 0;
    }
    meet_warpgroup();
}
CONVKIT_INLINE void wgmma_end() { ++products[threadIdx.x].groups; }
template <int COUNT>
CONVKIT_INLINE void wgmma_wait() {
    products[threadIdx.x].finish(COUNT);
    meet_warpgroup();
}
CONVKIT_INLINE void change(float&) {}
template <int COUNT>
CONVKIT_INLINE void wgmma(float (&d)[COUNT], unsigned long long a, unsigned long long b) {
    Products& mine = products[threadIdx.x];
    mine.list[mine.count++] = {a, b, d, COUNT * 2, mine.groups};
}

#endif
