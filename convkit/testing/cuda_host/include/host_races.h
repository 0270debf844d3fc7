// Detects races in shared memory, where CONVKIT_HOST_RACES is 1; otherwise the functions do nothing.
//
// The kernel is compiled with -fsanitize=thread, so every memory access calls a function here; the sanitizer's library
// is not linked, and the core is compiled without. Two accesses of different threads to a byte of shared memory are a race unless both are reads, both
// are atomic, or one happens before the other. Happens-before is tracked with vector clocks: the clock of a thread has,
// for each other thread, the last of its ticks whose accesses happen before the thread's next access. Synchronisation:
//
// - Block barrier: all accesses of the block before it happen before those after it. Threads that have returned count
//   as arrived.
// - __syncwarp: the lanes join their clocks. Shuffles and votes do not, because CUDA does not define that they order
//   memory.
// - mbarrier wait: the waiting thread acquires the clocks of all threads that arrived in the phase it waited for: the
//   first phase with that parity that it has not seen, even if later ones are complete.
// - Asynchronous copy: it is complete for threads that waited for its mbarrier, and for no others, including the thread
//   that issued it. A block barrier does not complete it.
// - wgmma wait: the threads of the warpgroup acquire each other's accesses, but not each other's clocks.
//
// So a race is found in any order of execution in which both accesses occur. Not detected: races in global memory and
// between the blocks of a cluster; missing proxy fences; memcpy and memset that g++ does not expand; reading the target
// of cp.async before waiting for it (here these copies are made at once). Reads dominated by a later read are dropped;
// this can miss a race in which a thread of a wgmma has seen only the later one.
#ifndef CONVKIT_HOST_RACES
#define CONVKIT_HOST_RACES 0
#endif

namespace convkit_host {

#if CONVKIT_HOST_RACES

// Called by kernels, and by the functions of CUDA for them. They know their callers by return addresses.
void meet_only(int first, int count);
void on_init(const void* address);
void on_arrive(const void* address);
void on_phase(const void* address);
void on_wait(const void* address, unsigned parity);
void on_copy(const void* address, size_t size, const void* mbarrier);
void on_atomic(const void* address, size_t size);
void begin_quiet();
void end_quiet();

// While one exists, accesses are not recorded. It must not exist while the thread waits.
struct Quiet {
    Quiet() { begin_quiet(); }
    ~Quiet() { end_quiet(); }
};

#if CONVKIT_HOST_CORE

constexpr unsigned MBARRIERS = 128, PHASES = 4;     // per block; per mbarrier, the last ones are kept
constexpr unsigned RECORDS = 1u << 24, COPIES = 256;
constexpr unsigned short COPY = 0x8000;

enum Access : unsigned char { READ, WRITE, ATOMIC };
constexpr const char* ACCESSES[] = {"a read", "a write", "an atomic operation"};

struct Record {  // accesses of one kind to the same bytes
    unsigned next;        // the next record of the cell; 0 for none
    unsigned tick;        // of the warp; of a copy, the number of phases of its mbarrier after which it is complete
    unsigned lanes;       // of the warp; of a copy, the thread that issued it
    unsigned counter;     // program counter, relative to the library
    unsigned short warp;  // or COPY and the number of the mbarrier
    unsigned char bytes;  // one bit each
    Access access;
};

struct Cell {  // four bytes of shared memory
    unsigned generation, first;
};

struct Copy {  // one that may be incomplete
    unsigned first, end;  // offsets
    Record record;
};

struct Mbarrier {
    unsigned over;  // completed phases
    bool copies;    // in the current phase
};

struct Races {
    unsigned char* mapped;
    size_t mapped_bytes;
    uintptr_t code, dynamic, variables;  // start addresses
    size_t dynamic_bytes, variables_bytes;
    Cell* cells;                // of the dynamic shared memory, then of the shared variables
    unsigned char* numbers;     // for each cell, the number of its mbarrier plus 1, or 0
    Record* records;
    unsigned used, spare;       // records in use so far, and the first free one
    unsigned generation;        // counts block barriers; cells of another generation are empty
    unsigned width;             // entries of a clock: the threads, then the mbarriers
    unsigned *clocks, *waiting, *ended;  // of threads; of mbarriers, for the current phase and [PHASES] completed ones
    Mbarrier mbarriers[MBARRIERS];
    unsigned count;             // of mbarriers
    Copy copies[COPIES];
    unsigned copied;
    unsigned ticks[MOST_THREADS / WARP];
    int quiet;
};

static Races races;

inline unsigned* clock_of(int thread) { return races.clocks + size_t(thread) * races.width; }

inline void acquire(unsigned* clock, const unsigned* other) {
    for (unsigned i = 0; i < races.width; ++i) clock[i] = clock[i] < other[i] ? other[i] : clock[i];
}

// Allocate memory. Return false if there is none.
bool begin_races(void* variables, size_t bytes) {
    Races& r = races;
    memset(&r, 0, sizeof r);
    r.dynamic = uintptr_t(dynamic_memory);
    r.dynamic_bytes = (request.shared + 15) / 16 * 16;
    r.variables = uintptr_t(variables) & ~uintptr_t(15);
    r.variables_bytes = variables == nullptr ? 0 : uintptr_t(variables) + bytes - r.variables;
    r.width = unsigned(threads) + MBARRIERS;
    const size_t cells = r.dynamic_bytes / 4 + r.variables_bytes / 4 + 2;
    const size_t sizes[] = {sizeof(Cell) * cells, cells, sizeof(Record) * RECORDS,
                            sizeof(unsigned) * r.width * size_t(threads), sizeof(unsigned) * r.width * MBARRIERS,
                            sizeof(unsigned) * r.width * MBARRIERS * PHASES};
    for (const size_t size : sizes) r.mapped_bytes += (size + 63) / 64 * 64;
    r.mapped = map(r.mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    if (r.mapped == nullptr) return false;
    unsigned char* places[6];
    unsigned char* next = r.mapped;
    for (int i = 0; i < 6; ++i) places[i] = next, next += (sizes[i] + 63) / 64 * 64;
    r.cells = reinterpret_cast<Cell*>(places[0]);
    r.numbers = places[1];
    r.records = reinterpret_cast<Record*>(places[2]);
    r.clocks = reinterpret_cast<unsigned*>(places[3]);
    r.waiting = reinterpret_cast<unsigned*>(places[4]);
    r.ended = reinterpret_cast<unsigned*>(places[5]);
    for (unsigned& tick : r.ticks) tick = 1;
    Dl_info info;
    if (dladdr(reinterpret_cast<void*>(&begin_races), &info) != 0) r.code = uintptr_t(info.dli_fbase);
    return true;
}

void end_races() {
    if (races.mapped != nullptr) munmap(races.mapped, races.mapped_bytes);
    memset(&races, 0, sizeof races);
}

// Drop all accesses.
inline void next_generation() {
    ++races.generation;
    races.used = races.spare = 0;
}

void begin_block() {
    Races& r = races;
    next_generation();
    for (int i = 0; i < threads; ++i) memset(clock_of(i) + threads, 0, sizeof(unsigned) * r.count);
    memset(r.numbers, 0, r.dynamic_bytes / 4 + r.variables_bytes / 4 + 2);
    r.count = r.copied = 0;
}

[[noreturn]] inline void report_race(const Record& before, const Record& now, int other, int self,
                                    size_t offset) {
    const uint3 a = fibres[other].index, b = fibres[self].index;
    const bool dynamic = offset < races.dynamic_bytes;
    const char* const names[] = {before.warp & COPY ? "a copy" : ACCESSES[before.access],
                                 now.warp & COPY ? "a copy" : ACCESSES[now.access]};
    report("threads (%u, %u, %u) and (%u, %u, %u) of block (%u, %u, %u) race at byte %zu of the ", a.x, a.y, a.z, b.x,
           b.y, b.z, blockIdx.x, blockIdx.y, blockIdx.z, dynamic ? offset : offset - races.dynamic_bytes);
    report("%s: %s at [pc %x] and %s at [pc %x]", dynamic ? "dynamic shared memory" : "shared variables", names[0],
        before.counter, names[1], now.counter);
    stop();
}

// A thread of the record whose access does not happen before the current one, or -1.
inline int unordered_thread(const Record& record, int self, const unsigned* clock) {
    if (record.warp & COPY) return clock[threads + (record.warp & ~COPY)] < record.tick ? int(record.lanes) : -1;
    const int first = record.warp * WARP;
    for (unsigned lanes = record.lanes; lanes != 0; lanes &= lanes - 1) {
        const int thread = first + __builtin_ctz(lanes);
        if (thread != self && clock[thread] < record.tick) return thread;
    }
    return -1;
}

inline void insert(Cell& cell, const Record& record) {
    unsigned place = races.spare;
    if (place != 0) {
        races.spare = races.records[place].next;
    } else if (races.used + 1 < RECORDS) {
        place = ++races.used;
    } else {
        report("there are too many accesses to check races");
        report_thread();
        stop();
    }
    races.records[place] = record;
    races.records[place].next = cell.first;
    cell.first = place;
}

// Record an access to bytes of a cell, and check it against earlier ones.
inline void record_access(size_t place, Record record, int self) {
    Races& r = races;
    Cell& cell = r.cells[place];
    if (cell.generation != r.generation) cell = {r.generation, 0};
    Record* same = nullptr;
    for (unsigned at = cell.first; at != 0; at = r.records[at].next) {
        Record& old = r.records[at];
        if (old.warp != record.warp || old.tick != record.tick || old.access != record.access) continue;
        const bool recorded = (old.lanes & record.lanes) == record.lanes && (record.bytes & ~old.bytes) == 0;
        if (recorded && !(old.warp & COPY)) return;
        if (old.bytes == record.bytes && record.access != WRITE) same = &old;
    }
    const unsigned* const clock = clock_of(self);
    for (unsigned* link = &cell.first; *link != 0;) {
        Record& old = r.records[*link];
        const unsigned common = old.bytes & record.bytes;
        const bool clash = common != 0 && (record.access != old.access || record.access == WRITE);
        // The new access dominates the old one: whoever is ordered after it is ordered after both.
        const bool covers = (old.bytes & ~record.bytes) == 0 && (record.access == WRITE || record.access == old.access);
        if (clash || (covers && same == nullptr)) {
            const int other = unordered_thread(old, self, clock);
            if (clash && other >= 0) report_race(old, record, other, self, place * 4 + unsigned(__builtin_ctz(common)));
            if (covers && other < 0 && same == nullptr) {
                const unsigned free = *link;
                *link = old.next;
                r.records[free].next = r.spare;
                r.spare = free;
                continue;
            }
        }
        link = &old.next;
    }
    if (same != nullptr) same->lanes |= record.lanes;
    else insert(cell, record);
}

// The offset of an address in the dynamic shared memory, then the shared variables; false if it is in neither.
inline bool offset_of(const void* address, size_t& offset) {
    offset = uintptr_t(address) - races.dynamic;
    if (offset < races.dynamic_bytes) return true;
    offset = uintptr_t(address) - races.variables;
    if (offset >= races.variables_bytes) return false;
    offset += races.dynamic_bytes;
    return true;
}

inline void record_bytes(size_t offset, size_t size, Record record, int self) {
    const size_t dynamic = races.dynamic_bytes, limit = offset < dynamic ? dynamic : dynamic + races.variables_bytes;
    const size_t end = offset + size < limit ? offset + size : limit;  // an access beyond it faults by itself
    for (size_t next; offset < end; offset = next) {
        next = (offset / 4 + 1) * 4;
        record.bytes = (15u << offset % 4 & 15u) & (end < next ? 15u >> (next - end) : 15u);
        record_access(offset / 4, record, self);
    }
}

inline void on_access(const void* address, size_t size, Access access, const void* counter) {
    size_t offset;
    if (!offset_of(address, offset) || races.quiet != 0) return;
    const int self = int(current - fibres), warp = self / WARP;
    const unsigned place = unsigned(uintptr_t(counter) - 1 - races.code);
    const Record record = {0, races.ticks[warp], 1u << self % WARP, place, (unsigned short)warp, 0, access};
    record_bytes(offset, size, record, self);
}

// --- Synchronisation -------------------------------------------------------------------------------------------------

// A block barrier. Copies that were issued before may still be incomplete.
void on_block_barrier() {
    Races& r = races;
    next_generation();
    for (unsigned k = 0; k < r.count; ++k) {
        unsigned most = 0;
        for (int i = 0; i < threads; ++i) most = most < clock_of(i)[threads + k] ? clock_of(i)[threads + k] : most;
        for (int i = 0; i < threads; ++i) clock_of(i)[threads + k] = most;
    }
    unsigned kept = 0;
    for (unsigned i = 0; i < r.copied; ++i) {
        const Copy copy = r.copies[i];
        if (clock_of(0)[threads + (copy.record.warp & ~COPY)] >= copy.record.tick) continue;
        r.copies[kept++] = copy;
        record_bytes(copy.first, copy.end - copy.first, copy.record, int(copy.record.lanes));
    }
    r.copied = kept;
}

void on_syncwarp(int warp, unsigned lanes) {
    Races& r = races;
    unsigned* const all = clock_of(warp * WARP + __builtin_ctz(lanes));
    for (unsigned rest = lanes; rest != 0; rest &= rest - 1) {
        const int thread = warp * WARP + __builtin_ctz(rest);
        clock_of(thread)[thread] = r.ticks[warp];
        acquire(all, clock_of(thread));
    }
    for (unsigned rest = lanes & (lanes - 1); rest != 0; rest &= rest - 1)
        memcpy(clock_of(warp * WARP + __builtin_ctz(rest)), all, sizeof(unsigned) * r.width);
    ++r.ticks[warp];
}

// The threads from `first` on acquire each other's accesses, but not each other's clocks.
void meet_only(int first, int count) {
    for (int i = first; i < first + count; ++i)
        for (int j = first; j < first + count; ++j) clock_of(i)[j] = races.ticks[j / WARP];
    for (int warp = first / WARP; warp * WARP < first + count; ++warp) ++races.ticks[warp];
}

// The number of the mbarrier at an address, or -1.
inline int mbarrier_at(const void* address) {
    size_t offset;
    return offset_of(address, offset) ? races.numbers[offset / 4] - 1 : -1;
}

void on_init(const void* address) {
    Races& r = races;
    size_t offset;
    on_access(address, 8, WRITE, __builtin_return_address(0));
    if (!offset_of(address, offset)) return;
    if (r.count == MBARRIERS) {
        report("there are too many mbarriers to check races");
        report_thread();
        stop();
    }
    r.mbarriers[r.count] = {0, false};
    memset(r.waiting + size_t(r.count) * r.width, 0, sizeof(unsigned) * r.width);
    r.numbers[offset / 4] = (unsigned char)++r.count;
}

void on_arrive(const void* address) {
    Races& r = races;
    on_access(address, 8, ATOMIC, __builtin_return_address(0));
    const int k = mbarrier_at(address), self = int(current - fibres);
    if (k < 0) return;
    clock_of(self)[self] = r.ticks[self / WARP]++;
    acquire(r.waiting + size_t(k) * r.width, clock_of(self));
}

// The current thread's arrival completed a phase. The thread has seen it if it is ordered after all other arrivals and
// the phase has no copy.
void on_phase(const void* address) {
    Races& r = races;
    const int k = mbarrier_at(address);
    if (k < 0) return;
    Mbarrier& mbarrier = r.mbarriers[k];
    unsigned *const own = clock_of(int(current - fibres)), *const clock = r.waiting + size_t(k) * r.width;
    bool known = !mbarrier.copies;
    for (unsigned i = 0; i < r.width; ++i) known = known && own[i] >= clock[i];
    unsigned* const ended = r.ended + (size_t(k) * PHASES + mbarrier.over % PHASES) * r.width;
    memcpy(ended, clock, sizeof(unsigned) * r.width);
    memset(clock, 0, sizeof(unsigned) * r.width);
    mbarrier = {mbarrier.over + 1, false};
    ended[threads + k] = mbarrier.over;
    if (known) own[threads + k] = mbarrier.over;
}

// The current thread waited for a phase of this parity.
void on_wait(const void* address, unsigned parity) {
    Races& r = races;
    on_access(address, 8, ATOMIC, __builtin_return_address(0));
    const int k = mbarrier_at(address);
    if (k < 0) return;
    unsigned* const clock = clock_of(int(current - fibres));
    const unsigned known = clock[threads + k], over = r.mbarriers[k].over;  // the phase `known - 1` has that parity
    if (((known + 1) & 1) == parity || known >= over) return;
    if (known + PHASES >= over) acquire(clock, r.ended + (size_t(k) * PHASES + known % PHASES) * r.width);
    else clock[threads + k] = known + 1;
}

// The current thread issues a copy that completes on the mbarrier.
void on_copy(const void* address, size_t size, const void* mbarrier) {
    Races& r = races;
    size_t offset;
    const int k = mbarrier_at(mbarrier), self = int(current - fibres);
    if (k < 0 || size == 0 || !offset_of(address, offset)) return;
    const unsigned place = unsigned(uintptr_t(__builtin_return_address(0)) - 1 - r.code);
    const Record record = {0, r.mbarriers[k].over + 1, unsigned(self), place, (unsigned short)(COPY | k), 0, WRITE};
    record_bytes(offset, size, record, self);
    r.mbarriers[k].copies = true;
    if (r.copied == COPIES) memmove(r.copies, r.copies + 1, sizeof(Copy) * --r.copied);  // the oldest
    r.copies[r.copied++] = {unsigned(offset), unsigned(offset + size), record};
}

void begin_quiet() { ++races.quiet; }
void end_quiet() { --races.quiet; }

void on_atomic(const void* address, size_t size) {
    on_access(address, size, ATOMIC, __builtin_return_address(0));
}

#endif

#else

#if CONVKIT_HOST_CORE
bool begin_races(void*, size_t) { return true; }
void end_races() {}
void begin_block() {}
void on_block_barrier() {}
void on_syncwarp(int, unsigned) {}
#endif
inline void meet_only(int, int) {}
inline void on_init(const void*) {}
inline void on_arrive(const void*) {}
inline void on_phase(const void*) {}
inline void on_wait(const void*, unsigned) {}
inline void on_copy(const void*, size_t, const void*) {}
inline void on_atomic(const void*, size_t) {}
struct Quiet {
    Quiet() {}
    ~Quiet() {}
};

#endif

#if CONVKIT_HOST_CORE
bool is_ready(const Fibre* fibre) {
    const Quiet unrecorded;
    return fibre->ready(fibre->watched, fibre->wanted);
}
#endif

}  // namespace convkit_host

#if CONVKIT_HOST_RACES && CONVKIT_HOST_CORE

// Called by instrumented code.
#define CONVKIT_HOST_ACCESS(name, size, access)                                                                    \
    extern "C" __attribute__((visibility("hidden"))) void __tsan_##name(void* address) {    \
        convkit_host::on_access(address, size, convkit_host::access, __builtin_return_address(0));                 \
    }
#define CONVKIT_HOST_ACCESSES(size)                           \
    CONVKIT_HOST_ACCESS(read##size, size, READ)               \
    CONVKIT_HOST_ACCESS(write##size, size, WRITE)             \
    CONVKIT_HOST_ACCESS(read_write##size, size, WRITE)        \
    CONVKIT_HOST_ACCESS(unaligned_read##size, size, READ)     \
    CONVKIT_HOST_ACCESS(unaligned_write##size, size, WRITE)   \
    CONVKIT_HOST_ACCESS(unaligned_read_write##size, size, WRITE)
CONVKIT_HOST_ACCESSES(1)
CONVKIT_HOST_ACCESSES(2)
CONVKIT_HOST_ACCESSES(4)
CONVKIT_HOST_ACCESSES(8)
CONVKIT_HOST_ACCESSES(16)

#define CONVKIT_HOST_HOOK extern "C" __attribute__((visibility("hidden")))
CONVKIT_HOST_HOOK void __tsan_init() {}
CONVKIT_HOST_HOOK void __tsan_func_entry(void*) {}
CONVKIT_HOST_HOOK void __tsan_func_exit() {}
CONVKIT_HOST_HOOK void __tsan_read_range(void* address, unsigned long size) {
    convkit_host::on_access(address, size, convkit_host::READ, __builtin_return_address(0));
}
CONVKIT_HOST_HOOK void __tsan_write_range(void* address, unsigned long size) {
    convkit_host::on_access(address, size, convkit_host::WRITE, __builtin_return_address(0));
}
CONVKIT_HOST_HOOK void* __tsan_memcpy(void* to, const void* from, unsigned long size) {  // of clang, as the next two
    convkit_host::on_access(from, size, convkit_host::READ, __builtin_return_address(0));
    convkit_host::on_access(to, size, convkit_host::WRITE, __builtin_return_address(0));
    return memcpy(to, from, size);
}
CONVKIT_HOST_HOOK void* __tsan_memmove(void* to, const void* from, unsigned long size) {
    convkit_host::on_access(from, size, convkit_host::READ, __builtin_return_address(0));
    convkit_host::on_access(to, size, convkit_host::WRITE, __builtin_return_address(0));
    return memmove(to, from, size);
}
CONVKIT_HOST_HOOK void* __tsan_memset(void* to, int value, unsigned long size) {
    convkit_host::on_access(to, size, convkit_host::WRITE, __builtin_return_address(0));
    return memset(to, value, size);
}

#endif
