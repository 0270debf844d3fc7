// Instructions of Hopper (sm_90a) other than matrix products: mbarriers, bulk copies to shared memory, reallocation of
// registers between warpgroups, clusters.
//
// On the host a block has no cluster, and copies are complete when they return.
#pragma once
#include "convkit.cuh"

typedef unsigned long long Barrier;

#if CONVKIT_DEVICE

// A 32-bit address in the block's shared memory. A generic address takes two registers, and a conversion at each use.
typedef unsigned Shared;

CONVKIT_INLINE Shared shared_address(const void* p) {
    unsigned result;
    asm volatile("{\n.reg .u64 a;\ncvta.to.shared.u64 a, %1;\ncvt.u32.u64 %0, a;\n}\n" : "=r"(result) : "l"(p));
    return result;
}

CONVKIT_INLINE uint4 load_shared(Shared at) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(at));
    return v;
}

CONVKIT_INLINE void store_shared(Shared at, unsigned x, unsigned y, unsigned z, unsigned w) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(x), "r"(y), "r"(z), "r"(w));
}

// Read-only 16-byte load. It is volatile so that the compiler does not move it.
CONVKIT_INLINE uint4 load_global(const char* at) {
    uint4 v;
    asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(at));
    return v;
}

// The address of the same location in another block of the cluster.
CONVKIT_INLINE unsigned in_block(Shared at, unsigned rank) {
    unsigned remote;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(at), "r"(rank));
    return remote;
}

template <int COUNT>
CONVKIT_INLINE void store_remote(Shared at, unsigned rank, const float (&v)[COUNT]) {
    const unsigned to = in_block(at, rank);
    if (COUNT == 4)
        asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to), "f"(v[0]), "f"(v[1]),
                     "f"(v[2 % COUNT]), "f"(v[3 % COUNT]) : "memory");
    else
        asm volatile("st.shared::cluster.v2.f32 [%0], {%1, %2};" ::"r"(to), "f"(v[0]), "f"(v[1]) : "memory");
}

CONVKIT_INLINE void init_barrier(Shared barrier, int arrivals) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

CONVKIT_INLINE void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// Order earlier accesses to shared memory by the generic proxy (ordinary stores) before later ones by the async proxy
// (operands of wgmma). The consumer executes it between its wait for a tile and the product.
//
// Why not the producers, after their stores: ptxas (CUDA 13.0) makes it a MEMBAR.ALL.CTA, which also waits for the
// global loads that a producer has in flight.
//
// Why this is enough. The PTX ISA ("Asynchronous Warpgroup Level Matrix Instructions", "Async Proxy", and "membar,
// fence") requires a fence.proxy.async between accesses through the two proxies, and does not say which of the
// synchronising threads executes it. By "Causality Order", the stores precede the product in base causality order:
// st.shared, __syncwarp, mbarrier.arrive (release, by lane 0), mbarrier.try_wait (acquire, by every thread of the
// consumer), fence.proxy.async, wgmma; so the proxy fence is on that path. The manual spells out the rule of a fence
// along the path for alias proxies only. Lustig et al., "Mixed-Proxy Extensions for the NVIDIA PTX Memory Consistency
// Model" (ISCA 2022, 5.4), which formalises it, requires the fence in the block of the access that is not generic: this
// block.
CONVKIT_INLINE void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Wait until the barrier's phase of this parity is complete, with acquire semantics in the scope of the block. A wider
// scope would invalidate the L1 cache, which has the samples.
CONVKIT_INLINE void wait(Shared barrier, unsigned parity) {
    asm volatile(
        "{\n.reg .pred done;\nagain:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n}\n" ::"r"(barrier), "r"(parity) : "memory");
}

CONVKIT_INLINE void arrive(Shared barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

CONVKIT_INLINE void arrive_remote(Shared barrier, unsigned rank) {
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(in_block(barrier, rank)) : "memory");
}

// Copy one of PARTS equal parts of `bytes` to the same address in all of `blocks`. The barrier expects all parts.
template <int PARTS>
CONVKIT_INLINE void copy_tile(Shared to, const void* from, int bytes, Shared barrier, unsigned short blocks) {
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
    if (PARTS > 1)
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
            "[%0], [%1], %2, [%3], %4;" ::"r"(to), "l"(from), "r"(bytes / PARTS), "r"(barrier), "h"(blocks) : "memory");
    else
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
            "l"(from), "r"(bytes), "r"(barrier) : "memory");
}

// The barrier of the cluster, in two halves. Writes before the arrival are visible after the wait only with `publish`.
template <bool publish>
CONVKIT_INLINE void cluster_arrive() {
    if (publish) asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    else asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
CONVKIT_INLINE void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// Change the registers per thread of the warpgroup from BEFORE to COUNT. An increase waits until others have released
// enough.
template <int COUNT, int BEFORE>
CONVKIT_INLINE void set_registers() {
    if (COUNT > BEFORE) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT > BEFORE ? COUNT : 24));
    if (COUNT < BEFORE) asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

#else

typedef unsigned char* Shared;

CONVKIT_INLINE Shared shared_address(void* p) { return (Shared)p; }
CONVKIT_INLINE uint4 load_shared(Shared at) { return *(const uint4*)at; }
CONVKIT_INLINE void store_shared(Shared at, unsigned x, unsigned y, unsigned z, unsigned w) {
    *(uint4*)at = make_uint4(x, y, z, w);
}
CONVKIT_INLINE uint4 load_global(const char* at) { return *(const uint4*)at; }
template <int COUNT>
CONVKIT_INLINE void store_remote(Shared, unsigned, const float (&)[COUNT]) {}

// A barrier: bit 32 is the phase, bits 16 to 31 the expected arrivals, bits 0 to 15 the pending ones.
CONVKIT_INLINE void init_barrier(Shared barrier, int arrivals) {
    convkit_host::on_init(barrier);
    const convkit_host::Quiet quiet;
    *(Barrier*)barrier = arrivals << 16 | arrivals;
}
CONVKIT_INLINE void publish_barriers() {}
CONVKIT_INLINE void fence_async_proxy() {}
CONVKIT_INLINE bool is_over(const void* barrier, unsigned parity) {
    return (*(const Barrier*)barrier >> 32 & 1) != parity;
}
CONVKIT_INLINE void wait(Shared barrier, unsigned parity) {
    convkit_host::wait_until(is_over, barrier, parity, {__FILE__, __LINE__});
    convkit_host::on_wait(barrier, parity);
}
CONVKIT_INLINE void arrive(Shared at) {
    convkit_host::on_arrive(at);
    const convkit_host::Quiet quiet;
    Barrier& barrier = *(Barrier*)at;
    if ((--barrier & 0xffff) != 0) return;
    barrier = (barrier ^ 1ull << 32) | (barrier >> 16 & 0xffff);
    convkit_host::on_phase(at);
}
CONVKIT_INLINE void arrive_remote(Shared, unsigned) {}
template <int PARTS>
CONVKIT_INLINE void copy_tile(Shared to, const void* from, int bytes, Shared barrier, unsigned short) {
    convkit_host::on_copy(to, bytes, barrier);
    {
        const convkit_host::Quiet quiet;
        for (int i = 0; i < bytes / 16; ++i) ((uint4*)to)[i] = ((const uint4*)from)[i];
    }
    arrive(barrier);
}
template <bool publish>
CONVKIT_INLINE void cluster_arrive() {}
CONVKIT_INLINE void cluster_wait() {}
struct Meeting {
    unsigned last, generation;  // the last that has arrived, counted from 0; all bits are set before each block
};
__shared__ Meeting meetings[32];
CONVKIT_INLINE bool is_over_since(const void* meeting, unsigned generation) {
    return ((const Meeting*)meeting)->generation != generation;
}
CONVKIT_INLINE void meet_warpgroup() {  // a barrier of the warpgroup, implied by its instructions on a GPU
    Meeting& meeting = meetings[threadIdx.x / 128];
    unsigned generation;
    {
        const convkit_host::Quiet quiet;
        generation = meeting.generation;
        if (++meeting.last == 127) {
            meeting = {~0u, generation + 1};
            convkit_host::meet_only(threadIdx.x / 128 * 128, 128);
            return;
        }
    }
    convkit_host::wait_until(is_over_since, &meeting, generation, {__FILE__, __LINE__});
}
template <int COUNT, int BEFORE>
CONVKIT_INLINE void set_registers() {}

#endif
