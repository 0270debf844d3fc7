// What Hopper (sm_90a) brings beside its matrix products: barriers in shared memory, copies that they count, clusters.
//
// On the host one warpgroup computes alone: a copy is there at once, and whoever waits for one meets all other threads.
#pragma once
#include "convkit.cuh"

typedef unsigned long long Barrier;

#if CONVKIT_DEVICE

CONVKIT_INLINE unsigned shared_address(const void* p) {
    unsigned result;
    asm("{\n.reg .u64 a;\ncvta.to.shared.u64 a, %1;\ncvt.u32.u64 %0, a;\n}\n" : "=r"(result) : "l"(p));
    return result;
}

// The address of the same place in another block of the cluster.
CONVKIT_INLINE unsigned in_block(unsigned address, unsigned rank) {
    unsigned remote;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
    return remote;
}

CONVKIT_INLINE float read_remote(unsigned address) {
    float value;
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(address));
    return value;
}

CONVKIT_INLINE void init_barrier(Barrier* barrier, int arrivals) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

CONVKIT_INLINE void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// The default scope is the block. A wider one would empty the L1 cache of the samples each time.
CONVKIT_INLINE void wait(unsigned barrier, unsigned parity) {
    asm volatile(
        "{\n.reg .pred done;\nagain:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n}\n" ::"r"(barrier), "r"(parity) : "memory");
}

CONVKIT_INLINE void wait_full(Barrier* barrier, unsigned parity) { wait(shared_address(barrier), parity); }
CONVKIT_INLINE void wait_empty(Barrier* barrier, unsigned parity) { wait(shared_address(barrier), parity); }

CONVKIT_INLINE void arrive(Barrier* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

CONVKIT_INLINE void arrive_remote(unsigned barrier) {
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Copy PARTS-th `part` of `bytes` to the same place in all of `blocks`; a barrier counts the bytes that come from them.
template <int PARTS>
CONVKIT_INLINE void copy_tile(void* to, const void* from, int bytes, Barrier* barrier, unsigned short blocks) {
    const unsigned counter = shared_address(barrier);
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(counter), "r"(bytes) : "memory");
    if (PARTS > 1)
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
            "[%0], [%1], %2, [%3], %4;" ::"r"(shared_address(to)), "l"(from), "r"(bytes / PARTS), "r"(counter), "h"(blocks) : "memory");
    else
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                shared_address(to)), "l"(from), "r"(bytes), "r"(counter) : "memory");
}

// Wait for all threads of the cluster; what they wrote is visible only with `publish`.
template <bool publish>
CONVKIT_INLINE void cluster_sync() {
    if (publish) asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    else asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Wait for THREADS threads, the one of `number` sets that calls it.
template <int THREADS>
CONVKIT_INLINE void set_sync(int number) {
    asm volatile("bar.sync %0, %1;" ::"r"(number), "n"(THREADS) : "memory");
}

#else

CONVKIT_INLINE unsigned shared_address(const void*) { return 0; }
CONVKIT_INLINE unsigned in_block(unsigned address, unsigned) { return address; }
CONVKIT_INLINE float read_remote(unsigned) { return 0.f; }
CONVKIT_INLINE void init_barrier(Barrier* barrier, int) { *barrier = 0; }
CONVKIT_INLINE void publish_barriers() {}
CONVKIT_INLINE void wait_full(Barrier*, unsigned) { __syncthreads(); }
CONVKIT_INLINE void wait_empty(Barrier*, unsigned) {}
CONVKIT_INLINE void arrive(Barrier*) {}
CONVKIT_INLINE void arrive_remote(unsigned) {}
template <int PARTS>
CONVKIT_INLINE void copy_tile(void* to, const void* from, int bytes, Barrier*, unsigned short) {
    for (int i = 0; i < bytes / 16; ++i) ((uint4*)to)[i] = ((const uint4*)from)[i];
}
template <bool publish>
CONVKIT_INLINE void cluster_sync() {}
template <int THREADS>
CONVKIT_INLINE void set_sync(int) {
    __syncthreads();
}

#endif
