// What a tactic means for a block of hopper.cu: tiles, registers of each role, and the layout of shared memory.
//
// The launch and the choice of tactics need some of these numbers in Python (_tactics.py). They arrive as the macros
// SHARED, CONSUMER_REGISTERS, HELPER_REGISTERS and PRODUCER_REGISTERS and are checked here: a tactic that `fits`
// refuses does not compile, and neither does one for which Python and this file disagree.
#pragma once
#include "gather.cuh"
#include "hopper.cuh"
#include "tables.cuh"

constexpr int TILE_H = ROWS / TILE_W;
constexpr int CHUNKS = (C + CHUNK - 1) / CHUNK * TAPS;
constexpr int PART = CHUNKS / CLUSTER_K;  // tiles of weights that a block multiplies for a patch
constexpr int WEIGHT_BYTES = TILE_N * CHUNK * int(sizeof(T)), SAMPLE_BYTES = ROWS * CHUNK * int(sizeof(T));
constexpr int WARPGROUPS = PRODUCERS + 2, THREADS = WARPGROUPS * 128;
constexpr int ACC = TILE_N / 2;  // accumulators of a consumer's thread for one patch
constexpr int SHARE = ACC / CLUSTER_K;  // of them, those that a slice finishes
constexpr bool RESIDENT = WEIGHT_STAGES >= PART;  // all tiles of weights stay in shared memory
constexpr int TABLES = (CLUSTER_K > 1 ? 1 : 2) * PATCHES;
constexpr int PREPARERS = RESIDENT ? 128 : 96;  // threads of the helpers that fill tables; one warp may copy weights
constexpr int ROWS_EACH = 4;                    // rows of a tile of samples that a producer's thread fills

// Offsets in bytes. Tiles must start at multiples of 1024 bytes, the period of their swizzle.
struct SharedStorage {
    static constexpr int full_weights = 0;                                     // Barrier [WEIGHT_STAGES]
    static constexpr int empty_weights = full_weights + 8 * WEIGHT_STAGES;     // Barrier [WEIGHT_STAGES]
    static constexpr int full_samples = empty_weights + 8 * WEIGHT_STAGES;     // Barrier [SAMPLE_STAGES]
    static constexpr int empty_samples = full_samples + 8 * SAMPLE_STAGES;     // Barrier [SAMPLE_STAGES]
    static constexpr int full_tables = empty_samples + 8 * SAMPLE_STAGES;      // Barrier [2]
    static constexpr int empty_tables = full_tables + 8 * 2;                   // Barrier [2]
    static constexpr int barriers_end = empty_tables + 8 * 2;
    static constexpr int bias = 1024;                                          // float [TILE_N]
    static constexpr int weights = 2048;                                       // T [WEIGHT_STAGES][TILE_N][CHUNK]
    static constexpr int samples = weights + WEIGHT_STAGES * WEIGHT_BYTES;     // T [SAMPLE_STAGES][ROWS][CHUNK]
    static constexpr int tables = samples + SAMPLE_STAGES * SAMPLE_BYTES;      // [TABLES][TABLE_BYTES]
    // Only if CLUSTER_K > 1: float [CLUSTER_K][PATCHES][SHARE][128].
    static constexpr int sums = tables + TABLES * TABLE_BYTES;
    static constexpr int end = sums + (CLUSTER_K > 1 ? ACC * PATCHES * 128 * 4 : 0);
    static constexpr int bytes = (end + 1023) / 1024 * 1024;  // the host's memory starts at 1024 only if it ends there
};

// Registers of a thread at the launch, which the roles then divide among themselves.
constexpr int LAUNCH_REGISTERS = 65536 / (THREADS * BLOCKS_PER_SM) / 8 * 8;
// ptxas keeps the accumulators of one product within the registers of the launch, so wide products are split.
constexpr int MOST_COLUMNS = LAUNCH_REGISTERS >= 160 ? 256 : LAUNCH_REGISTERS >= 96 ? 128 : 64;
constexpr int COLUMNS = TILE_N < MOST_COLUMNS ? TILE_N : MOST_COLUMNS, PRODUCTS = TILE_N / COLUMNS;

static_assert(SHARED == SharedStorage::bytes, "SHARED is not what the block lays out");
static_assert(SharedStorage::barriers_end <= SharedStorage::bias, "too many stages for the space of the barriers");
static_assert(BLOCKS_PER_SM * (SHARED + 1024) <= 228 * 1024 && SHARED <= 227 * 1024, "too much shared memory");

static_assert(CONSUMER_REGISTERS >= ACC * PATCHES + 32 && CONSUMER_REGISTERS <= 255, "too few registers for the sums");
static_assert(PRODUCER_REGISTERS >= 64 && PRODUCER_REGISTERS <= 240, "too few registers for a producer");
static_assert(CONSUMER_REGISTERS % 8 == 0 && HELPER_REGISTERS % 8 == 0 && PRODUCER_REGISTERS % 8 == 0,
              "setmaxnreg takes multiples of 8");
static_assert(CONSUMER_REGISTERS + HELPER_REGISTERS + PRODUCERS * PRODUCER_REGISTERS <= LAUNCH_REGISTERS * WARPGROUPS,
              "the roles need more registers than the launch has");
static_assert(PRODUCERS >= 1 && THREADS * BLOCKS_PER_SM <= 1024, "no producer, or too many threads");

static_assert(TILE_N == 32 || TILE_N == 64 || TILE_N == 128 || TILE_N == 256, "there is no such product");
static_assert(ACC * PATCHES <= 128, "too many sums");
static_assert(CLUSTER_M == 1 || CLUSTER_M == 2 || CLUSTER_M == 4 || CLUSTER_M == 8, "no such cluster");
static_assert(CLUSTER_M * CLUSTER_K <= 8, "the largest portable cluster has 8 blocks");
static_assert(CHUNKS % CLUSTER_K == 0, "CLUSTER_K must divide the tiles of weights");
static_assert(SHARE * CLUSTER_K == ACC && (SHARE == 2 || SHARE == 4 || SHARE % 8 == 0), "too many slices");
// A tile is released when the products of the next one have started.
static_assert(WEIGHT_STAGES >= (PART > 1 ? 2 : 1) && SAMPLE_STAGES >= 2, "too few stages");
static_assert(WEIGHT_STAGES <= PART, "more stages of weights than tiles");
static_assert(SAMPLE_STAGES >= PRODUCERS, "producers would overtake each other");
static_assert(ROWS_EACH % PREFETCH == 0, "PREFETCH is 1, 2 or 4");
static_assert(PRODUCERS <= PART * PATCHES, "a producer without a tile of every patch would keep its table");
