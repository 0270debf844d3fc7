// The functions of CUDA: barriers, votes and shuffles of fibres, arithmetic, memory. Atomics are plain operations,
// because fibres are switched at barriers only.

// --- Barriers, votes, shuffles ---------------------------------------------------------------------------------------

#define CONVKIT_HOST_PLACE \
    convkit_host::Place place = { __builtin_FILE(), __builtin_LINE() }

inline void __syncthreads(CONVKIT_HOST_PLACE) { convkit_host::wait_block(false, place); }
inline int __syncthreads_count(int vote, CONVKIT_HOST_PLACE) { return convkit_host::wait_block(vote != 0, place); }
inline int __syncthreads_or(int vote, CONVKIT_HOST_PLACE) { return convkit_host::wait_block(vote != 0, place) != 0; }
inline int __syncthreads_and(int vote, CONVKIT_HOST_PLACE) { return convkit_host::wait_block(vote == 0, place) == 0; }
inline void __threadfence() {}
inline void __threadfence_block() {}

inline void __syncwarp(unsigned mask = ~0u, CONVKIT_HOST_PLACE) {
    convkit_host::wait_warp(convkit_host::SYNCWARP, mask, 0, -1, place);
}

inline unsigned __ballot_sync(unsigned mask, int vote, CONVKIT_HOST_PLACE) {
    return unsigned(convkit_host::wait_warp(convkit_host::VOTE, mask, vote != 0, -1, place));
}

inline int __any_sync(unsigned mask, int vote, CONVKIT_HOST_PLACE) { return __ballot_sync(mask, vote, place) != 0; }
inline int __all_sync(unsigned mask, int vote, CONVKIT_HOST_PLACE) { return __ballot_sync(mask, !vote, place) == 0; }

namespace convkit_host {

template <typename V>
V shuffle(unsigned mask, V value, int source, Place place) {
    static_assert(std::is_arithmetic_v<V> && sizeof(V) >= 4 && sizeof(V) <= 8, "shuffles move 32 or 64 bits");
    unsigned long long bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = wait_warp(SHUFFLE, mask, bits, source, place);
    memcpy(&value, &bits, sizeof value);
    return value;
}

}  // namespace convkit_host

template <typename V>
V __shfl_sync(unsigned mask, V value, int source, int width = 32, CONVKIT_HOST_PLACE) {
    const int lane = convkit_host::lane_of(convkit_host::current);
    return convkit_host::shuffle(mask, value, (lane & ~(width - 1)) | (source & (width - 1)), place);
}

template <typename V>
V __shfl_up_sync(unsigned mask, V value, unsigned delta, int width = 32, CONVKIT_HOST_PLACE) {
    const int lane = convkit_host::lane_of(convkit_host::current), source = lane - int(delta);
    return convkit_host::shuffle(mask, value, source < (lane & ~(width - 1)) ? lane : source, place);
}

template <typename V>
V __shfl_down_sync(unsigned mask, V value, unsigned delta, int width = 32, CONVKIT_HOST_PLACE) {
    const int lane = convkit_host::lane_of(convkit_host::current), source = lane + int(delta);
    return convkit_host::shuffle(mask, value, source > (lane | (width - 1)) ? lane : source, place);
}

template <typename V>
V __shfl_xor_sync(unsigned mask, V value, int bits, int width = 32, CONVKIT_HOST_PLACE) {
    const int lane = convkit_host::lane_of(convkit_host::current), source = lane ^ bits;
    return convkit_host::shuffle(mask, value, source > (lane | (width - 1)) ? lane : source, place);
}

// --- Arithmetic ------------------------------------------------------------------------------------------------------

#define CONVKIT_HOST_MINMAX(T)                                  \
    inline T min(T a, T b) { return b < a ? b : a; }            \
    inline T max(T a, T b) { return a < b ? b : a; }

CONVKIT_HOST_MINMAX(int)
CONVKIT_HOST_MINMAX(unsigned)
CONVKIT_HOST_MINMAX(long)
CONVKIT_HOST_MINMAX(unsigned long)
CONVKIT_HOST_MINMAX(long long)
CONVKIT_HOST_MINMAX(unsigned long long)
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline unsigned min(int a, unsigned b) { return min(unsigned(a), b); }
inline unsigned min(unsigned a, int b) { return min(a, unsigned(b)); }
inline unsigned max(int a, unsigned b) { return max(unsigned(a), b); }
inline unsigned max(unsigned a, int b) { return max(a, unsigned(b)); }

namespace convkit_host {

template <typename To, typename From>
To bits(From value) {
    static_assert(sizeof(To) == sizeof(From), "bits are kept");
    To result;
    memcpy(&result, &value, sizeof result);
    return result;
}

// A float as an int as on a GPU: 0 for NaN, the nearest int for values out of range.
inline int to_int(float value) {
    if (value != value) return 0;
    return value >= 2147483648.f ? INT_MAX : value <= -2147483648.f ? INT_MIN : int(value);
}

}  // namespace convkit_host

inline float __int_as_float(int value) { return convkit_host::bits<float>(value); }
inline int __float_as_int(float value) { return convkit_host::bits<int>(value); }
inline float __uint_as_float(unsigned value) { return convkit_host::bits<float>(value); }
inline unsigned __float_as_uint(float value) { return convkit_host::bits<unsigned>(value); }
inline int __float2int_rn(float value) { return convkit_host::to_int(rintf(value)); }
inline int __float2int_rz(float value) { return convkit_host::to_int(truncf(value)); }
inline int __float2int_rd(float value) { return convkit_host::to_int(floorf(value)); }
inline int __float2int_ru(float value) { return convkit_host::to_int(ceilf(value)); }
inline float __int2float_rn(int value) { return float(value); }
inline float __uint2float_rn(unsigned value) { return float(value); }

inline float rsqrtf(float value) { return 1.f / sqrtf(value); }
inline float __frsqrt_rn(float value) { return float(1. / sqrt(double(value))); }
inline float __fsqrt_rn(float value) { return sqrtf(value); }
inline float __expf(float value) { return expf(value); }
inline float __logf(float value) { return logf(value); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __saturatef(float value) { return value > 0.f ? fminf(value, 1.f) : 0.f; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float value) { return 1.f / value; }

inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __clz(int value) { return value == 0 ? 32 : __builtin_clz(unsigned(value)); }
inline int __clzll(long long value) { return value == 0 ? 64 : __builtin_clzll((unsigned long long)value); }
inline int __mul24(int a, int b) { return (a << 8 >> 8) * (b << 8 >> 8); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(static_cast<unsigned long long>(a) * b >> 32); }
inline int __mulhi(int a, int b) { return int(static_cast<long long>(a) * b >> 32); }

inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return unsigned(((static_cast<unsigned long long>(high) << 32) | low) >> (shift & 31u));
}

inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {  // without its sign mode
    const unsigned long long bytes = (static_cast<unsigned long long>(high) << 32) | low;
    unsigned result = 0;
    for (int i = 0; i < 4; ++i) result |= unsigned((bytes >> (8 * (selector >> (4 * i) & 7u))) & 255u) << (8 * i);
    return result;
}

inline unsigned __brev(unsigned value) {
    unsigned result = 0;
    for (int i = 0; i < 32; ++i) result |= (value >> i & 1u) << (31 - i);
    return result;
}

// --- Memory ----------------------------------------------------------------------------------------------------------

template <typename V>
V __ldg(const V* address) {
    return *address;
}

// An access that does not race with other atomic ones.
#define CONVKIT_HOST_ATOMIC                              \
    convkit_host::on_atomic(address, sizeof *address);   \
    const convkit_host::Quiet quiet

template <typename V>
__forceinline__ V atomicExch(V* address, std::common_type_t<V> value) {
    CONVKIT_HOST_ATOMIC;
    const V old = *address;
    *address = value;
    return old;
}

template <typename V>
__forceinline__ V atomicAdd(V* address, std::common_type_t<V> value) {
    CONVKIT_HOST_ATOMIC;
    return atomicExch(address, *address + value);
}

template <typename V>
__forceinline__ V atomicSub(V* address, std::common_type_t<V> value) {
    CONVKIT_HOST_ATOMIC;
    return atomicExch(address, *address - value);
}

template <typename V>
__forceinline__ V atomicMax(V* address, std::common_type_t<V> value) {
    CONVKIT_HOST_ATOMIC;
    return atomicExch(address, *address < value ? value : *address);
}

template <typename V>
__forceinline__ V atomicMin(V* address, std::common_type_t<V> value) {
    CONVKIT_HOST_ATOMIC;
    return atomicExch(address, value < *address ? value : *address);
}

template <typename V>
__forceinline__ V atomicOr(V* address, std::common_type_t<V> value) {
    CONVKIT_HOST_ATOMIC;
    return atomicExch(address, *address | value);
}

template <typename V>
__forceinline__ V atomicAnd(V* address, std::common_type_t<V> value) {
    CONVKIT_HOST_ATOMIC;
    return atomicExch(address, *address & value);
}

template <typename V>
__forceinline__ V atomicCAS(V* address, std::common_type_t<V> expected, std::common_type_t<V> value) {
    CONVKIT_HOST_ATOMIC;
    return *address == expected ? atomicExch(address, value) : *address;
}
