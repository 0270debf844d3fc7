// Warpgroup matrix products of Hopper (sm_90a): 64 rows times columns, both from shared memory.
//
// ELEMENT is the type of the operands: "f16" or "bf16". The sums are float. On the host, each thread computes its sums
// when it waits for them, and reads as a descriptor says. A warpgroup may have 64 products on their way.
#pragma once
#include "convkit.cuh"
#include "hopper.cuh"

// Where a product finds its rows or columns, each of which has 64 values of the sum. The lower 14 bits are an address in
// units of 16 bytes; from bit 16 on stands 1, of no meaning here; from bit 32 on the distance of eight rows in those
// units. Bit 62 says that rows have 128 bytes, of which 16-byte piece i of row r lies at i ^ (r % 8). A tile starts at a
// multiple of 1024 bytes, so that `offset`, which goes along a row, never carries.
CONVKIT_INLINE unsigned long long descriptor_of(unsigned address, unsigned offset) {
    const unsigned low = (((address >> 4) & 0x3fffu) | (1u << 16)) + (offset >> 4), high = 64u | (1u << 30);
    return (unsigned long long)high << 32 | low;
}

#if CONVKIT_DEVICE

CONVKIT_INLINE unsigned long long descriptor(Shared tile, unsigned offset) { return descriptor_of(tile, offset); }

// Products lie between begin and end, and run on until they are waited for.
CONVKIT_INLINE void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
CONVKIT_INLINE void wgmma_end() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Wait until at most COUNT of them run.
template <int COUNT>
CONVKIT_INLINE void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(COUNT) : "memory");
}

// Tell the compiler that a value is changed here.
CONVKIT_INLINE void change(float& value) { asm volatile("" : "+f"(value)::"memory"); }

CONVKIT_INLINE void wgmma(float (&d)[16], unsigned long long a, unsigned long long b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n32k16.f32." ELEMENT "." ELEMENT " "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
                 "%16, %17, 1, 1, 1, 0, 0;\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
                   "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),
                   "+f"(d[15])
                 : "l"(a), "l"(b));
}

CONVKIT_INLINE void wgmma(float (&d)[32], unsigned long long a, unsigned long long b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32." ELEMENT "." ELEMENT " "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "
                 "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                 "%32, %33, 1, 1, 1, 0, 0;\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
                   "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),
                   "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]),
                   "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]),
                   "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
                 : "l"(a), "l"(b));
}

CONVKIT_INLINE void wgmma(float (&d)[64], unsigned long long a, unsigned long long b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." ELEMENT "." ELEMENT " "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "
                 "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, "
                 "%40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, "
                 "%59, %60, %61, %62, %63}, "
                 "%64, %65, 1, 1, 1, 0, 0;\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
                   "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),
                   "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]),
                   "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]),
                   "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),
                   "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]),
                   "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]),
                   "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]),
                   "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
                 : "l"(a), "l"(b));
}

CONVKIT_INLINE void wgmma(float (&d)[128], unsigned long long a, unsigned long long b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n256k16.f32." ELEMENT "." ELEMENT " "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "
                 "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, "
                 "%40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, "
                 "%59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, "
                 "%78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, "
                 "%97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, "
                 "%114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
                 "%128, %129, 1, 1, 1, 0, 0;\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
                   "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),
                   "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]),
                   "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]),
                   "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),
                   "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]),
                   "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]),
                   "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]),
                   "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]),
                   "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]),
                   "+f"(d[71]), "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]),
                   "+f"(d[78]), "+f"(d[79]), "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]),
                   "+f"(d[85]), "+f"(d[86]), "+f"(d[87]), "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]),
                   "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95]), "+f"(d[96]), "+f"(d[97]), "+f"(d[98]),
                   "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]), "+f"(d[104]),
                   "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]),
                   "+f"(d[111]), "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]),
                   "+f"(d[117]), "+f"(d[118]), "+f"(d[119]), "+f"(d[120]), "+f"(d[121]), "+f"(d[122]),
                   "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])
                 : "l"(a), "l"(b));
}

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

    // Lane 4 g + q of warp w has, of every 8 columns, 2 q and 2 q + 1: of row 16 w + g in sums[4 j], sums[4 j + 1], and
    // of the row 8 further on in the next two.
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

// Products begin, and are done, for the four warps together.
CONVKIT_INLINE void wgmma_begin() {
    {
        const convkit_host::Quiet quiet;
        for (Products& of_thread : products)
            if (no_products_yet) of_thread.count = of_thread.groups = 0;
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
