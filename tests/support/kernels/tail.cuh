#include "convkit.cuh"

CONVKIT_INLINE bool inside(long long index, int count) { return index < count; }
