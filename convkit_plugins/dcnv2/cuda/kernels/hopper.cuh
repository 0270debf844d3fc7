// What Hopper (sm_90a) brings beside its matrix products: barriers in shared memory, copies that they count, registers
// that warpgroups hand on, clusters.
//
// On the host a block has no cluster, and a copy is there at once.
#pragma once
#include "convkit.cuh"

typedef unsigned long long Barrier;

#if CONVKIT_DEVICE

// A place in the block's shared memory. Generic addresses would take twice the registers, and made of them again and
// again, so this comes from one only once.
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

// Read what nobody writes; not before what stands in front of it.
CONVKIT_INLINE uint4 load_global(const char* at) {
    uint4 v;
    asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(at));
    return v;
}

// The same place in another block of the cluster.
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

// Let the tensor cores see what has been written to shared memory. Who has loads on their way would wait for them, so
// this is for the warps that start the products.
CONVKIT_INLINE void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Wait until the barrier's phase of this parity is over. The default scope is the block. A wider one would empty the L1
// cache of the samples each time.
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

// Copy PARTS-th `part` of `bytes` to the same place in all of `blocks`; a barrier counts the bytes that come from them.
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

// All threads of the cluster meet: they arrive, and later wait for the others. What they wrote before is visible after
// that only with `publish`.
template <bool publish>
CONVKIT_INLINE void cluster_arrive() {
    if (publish) asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    else asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
CONVKIT_INLINE void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// Give registers back, or wait for those that others give back, until each thread of the warpgroup has COUNT.
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

// A barrier's bit 32 is its phase; below are 16 bits for how many arrive, and 16 for how many of them have not yet.
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
CONVKIT_INLINE void meet_warpgroup() {  // which the tensor cores do by themselves
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
