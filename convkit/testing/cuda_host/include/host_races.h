// Finds races in shared memory, for host.h, where CONVKIT_HOST_RACES is set; else nothing is left of this.
//
// The kernel is compiled with -fsanitize=thread, so that every access to memory calls a function here; the sanitizer's
// own library is not linked. Two accesses of different threads to one byte of shared memory are a race unless both
// read, both are atomic, or one happens before the other. That is known from vector clocks: a thread knows of each
// other one up to which of its `ticks` all that it did has happened. What teaches it:
//
// - A block barrier: all that came before has happened. Threads that have returned count as arrived.
// - __syncwarp: the lanes learn what the others know. Shuffles and votes teach nothing, as CUDA does not say that they
//   order memory.
// - An mbarrier: who waits learns what those knew that arrived in the phase it waited for. That is the first one after
//   those it knows of that has the parity, even if more of them are over by now.
// - The end of an asynchronous copy: who waits for its mbarrier knows that it is over, and before that not even the
//   thread that began it. A block barrier does not end it.
// - Matrix products of a warpgroup: its threads learn that the others came here, not what those know of others.
//
// So a race is found in whatever order threads run here, as long as both accesses are made. Not seen are: global
// memory; other blocks of a cluster; that a fence between proxies is missing; memcpy and memset that g++ does not
// expand; that copies by cp.async go on, on a GPU, until a thread waits for them: here they are made at once. Of reads
// that others cover only the last ones are kept, which forgets one where the threads of a product learn of its successor
// and not of itself.
#ifndef CONVKIT_HOST_RACES
#define CONVKIT_HOST_RACES 0
#endif

namespace convkit_host {

#if CONVKIT_HOST_RACES

#define CONVKIT_HOST_UNSEEN __attribute__((no_sanitize("thread"), noinline)) inline

constexpr unsigned MBARRIERS = 128, PHASES = 4;     // of a block; of an mbarrier, those that are not forgotten
constexpr unsigned RECORDS = 1u << 24, COPIES = 256;
constexpr unsigned short COPY = 0x8000;

enum Access : unsigned char { READ, WRITE, ATOMIC };
constexpr const char* ACCESSES[] = {"a read", "a write", "an atomic operation"};

struct Record {  // of accesses of one kind to the same bytes
    unsigned next;        // the next one of the cell; 0 for none
    unsigned tick;        // of the warp; of a copy, how many phases of its mbarrier are over when it is
    unsigned lanes;       // of the warp; of a copy, the thread that began it
    unsigned counter;     // where in the library
    unsigned short warp;  // or COPY, and the number of the mbarrier
    unsigned char bytes;  // one bit each
    Access access;
};

struct Cell {  // four bytes of shared memory
    unsigned generation, first;
};

struct Copy {  // one that may be on its way
    unsigned first, end;  // offsets
    Record record;
};

struct Mbarrier {
    unsigned over;  // phases
    bool copies;    // in this phase
};

struct Races {
    unsigned char* mapped;
    size_t mapped_bytes;
    uintptr_t code, dynamic, variables;  // where they begin
    size_t dynamic_bytes, variables_bytes;
    Cell* cells;                // of the dynamic shared memory, then of the variables
    unsigned char* numbers;     // for each cell, one more than the number of the mbarrier in it
    Record* records;
    unsigned used, spare;       // records ever used, and the first of those that are free again
    unsigned generation;        // counts block barriers; what cells hold of another one has happened
    unsigned width;             // of a clock: the threads, then the mbarriers
    unsigned *clocks, *waiting, *ended;  // of threads; of mbarriers, for this phase and [PHASES] others
    Mbarrier mbarriers[MBARRIERS];
    unsigned count;             // of mbarriers
    Copy copies[COPIES];
    unsigned copied;
    unsigned ticks[MOST_THREADS / WARP];
    int quiet;
};

__attribute__((visibility("hidden"))) Races races;

CONVKIT_HOST_UNSEEN unsigned* clock_of(int thread) { return races.clocks + size_t(thread) * races.width; }

CONVKIT_HOST_UNSEEN void learn(unsigned* clock, const unsigned* other) {
    for (unsigned i = 0; i < races.width; ++i) clock[i] = clock[i] < other[i] ? other[i] : clock[i];
}

// Get memory. False if there is none.
CONVKIT_HOST_UNSEEN bool begin_races(void* variables, size_t bytes) {
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

CONVKIT_HOST_UNSEEN void end_races() {
    if (races.mapped != nullptr) munmap(races.mapped, races.mapped_bytes);
    memset(&races, 0, sizeof races);
}

// Forget all accesses.
CONVKIT_HOST_UNSEEN void next_generation() {
    ++races.generation;
    races.used = races.spare = 0;
}

CONVKIT_HOST_UNSEEN void begin_block() {
    Races& r = races;
    next_generation();
    for (int i = 0; i < threads; ++i) memset(clock_of(i) + threads, 0, sizeof(unsigned) * r.count);
    memset(r.numbers, 0, r.dynamic_bytes / 4 + r.variables_bytes / 4 + 2);
    r.count = r.copied = 0;
}

[[noreturn]] CONVKIT_HOST_UNSEEN void say_race(const Record& before, const Record& now, int other, int self,
                                               size_t offset) {
    const uint3 a = fibres[other].index, b = fibres[self].index;
    const bool dynamic = offset < races.dynamic_bytes;
    const char* const names[] = {before.warp & COPY ? "a copy" : ACCESSES[before.access],
                                 now.warp & COPY ? "a copy" : ACCESSES[now.access]};
    say("threads (%u, %u, %u) and (%u, %u, %u) of block (%u, %u, %u) race at byte %zu of the ", a.x, a.y, a.z, b.x, b.y,
        b.z, blockIdx.x, blockIdx.y, blockIdx.z, dynamic ? offset : offset - races.dynamic_bytes);
    say("%s: %s at [pc %x] and %s at [pc %x]", dynamic ? "dynamic shared memory" : "shared variables", names[0],
        before.counter, names[1], now.counter);
    stop();
}

// A thread of the record whose access may not have happened yet for all that the current thread knows, or -1.
CONVKIT_HOST_UNSEEN int unknown_of(const Record& record, int self, const unsigned* clock) {
    if (record.warp & COPY) return clock[threads + (record.warp & ~COPY)] < record.tick ? int(record.lanes) : -1;
    const int first = record.warp * WARP;
    for (unsigned lanes = record.lanes; lanes != 0; lanes &= lanes - 1) {
        const int thread = first + __builtin_ctz(lanes);
        if (thread != self && clock[thread] < record.tick) return thread;
    }
    return -1;
}

CONVKIT_HOST_UNSEEN void insert(Cell& cell, const Record& record) {
    unsigned place = races.spare;
    if (place != 0) {
        races.spare = races.records[place].next;
    } else if (races.used + 1 < RECORDS) {
        place = ++races.used;
    } else {
        say("there are too many accesses to look for races");
        say_where();
        stop();
    }
    races.records[place] = record;
    races.records[place].next = cell.first;
    cell.first = place;
}

// Note an access to bytes of a cell, and compare it with those before.
CONVKIT_HOST_UNSEEN void note_access(size_t place, Record record, int self) {
    Races& r = races;
    Cell& cell = r.cells[place];
    if (cell.generation != r.generation) cell = {r.generation, 0};
    Record* same = nullptr;
    for (unsigned at = cell.first; at != 0; at = r.records[at].next) {
        Record& old = r.records[at];
        if (old.warp != record.warp || old.tick != record.tick || old.access != record.access) continue;
        const bool noted = (old.lanes & record.lanes) == record.lanes && (record.bytes & ~old.bytes) == 0;
        if (noted && !(old.warp & COPY)) return;
        if (old.bytes == record.bytes && record.access != WRITE) same = &old;
    }
    const unsigned* const clock = clock_of(self);
    for (unsigned* link = &cell.first; *link != 0;) {
        Record& old = r.records[*link];
        const unsigned common = old.bytes & record.bytes;
        const bool clash = common != 0 && (record.access != old.access || record.access == WRITE);
        // Who knows of this access will know of those, and need not be told.
        const bool covers = (old.bytes & ~record.bytes) == 0 && (record.access == WRITE || record.access == old.access);
        if (clash || (covers && same == nullptr)) {
            const int other = unknown_of(old, self, clock);
            if (clash && other >= 0) say_race(old, record, other, self, place * 4 + unsigned(__builtin_ctz(common)));
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

// The offset of an address in the dynamic shared memory, or behind it in the variables; false if it is elsewhere.
CONVKIT_HOST_UNSEEN bool offset_of(const void* address, size_t& offset) {
    offset = uintptr_t(address) - races.dynamic;
    if (offset < races.dynamic_bytes) return true;
    offset = uintptr_t(address) - races.variables;
    if (offset >= races.variables_bytes) return false;
    offset += races.dynamic_bytes;
    return true;
}

CONVKIT_HOST_UNSEEN void note_bytes(size_t offset, size_t size, Record record, int self) {
    const size_t dynamic = races.dynamic_bytes, limit = offset < dynamic ? dynamic : dynamic + races.variables_bytes;
    const size_t end = offset + size < limit ? offset + size : limit;  // beyond it the access itself will fail
    for (size_t next; offset < end; offset = next) {
        next = (offset / 4 + 1) * 4;
        record.bytes = (15u << offset % 4 & 15u) & (end < next ? 15u >> (next - end) : 15u);
        note_access(offset / 4, record, self);
    }
}

CONVKIT_HOST_UNSEEN void on_access(const void* address, size_t size, Access access, const void* counter) {
    size_t offset;
    if (!offset_of(address, offset) || races.quiet != 0) return;
    const int self = int(current - fibres), warp = self / WARP;
    const unsigned place = unsigned(uintptr_t(counter) - 1 - races.code);
    const Record record = {0, races.ticks[warp], 1u << self % WARP, place, (unsigned short)warp, 0, access};
    note_bytes(offset, size, record, self);
}

// --- What teaches threads --------------------------------------------------------------------------------------------

// All threads meet. What was copied before may still be on its way.
CONVKIT_HOST_UNSEEN void meet_block() {
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
        note_bytes(copy.first, copy.end - copy.first, copy.record, int(copy.record.lanes));
    }
    r.copied = kept;
}

CONVKIT_HOST_UNSEEN void meet_lanes(int warp, unsigned lanes) {
    Races& r = races;
    unsigned* const all = clock_of(warp * WARP + __builtin_ctz(lanes));
    for (unsigned rest = lanes; rest != 0; rest &= rest - 1) {
        const int thread = warp * WARP + __builtin_ctz(rest);
        clock_of(thread)[thread] = r.ticks[warp];
        learn(all, clock_of(thread));
    }
    for (unsigned rest = lanes & (lanes - 1); rest != 0; rest &= rest - 1)
        memcpy(clock_of(warp * WARP + __builtin_ctz(rest)), all, sizeof(unsigned) * r.width);
    ++r.ticks[warp];
}

// Threads from `first` on have met, and know of each other what these did; no more.
CONVKIT_HOST_UNSEEN void meet_only(int first, int count) {
    for (int i = first; i < first + count; ++i)
        for (int j = first; j < first + count; ++j) clock_of(i)[j] = races.ticks[j / WARP];
    for (int warp = first / WARP; warp * WARP < first + count; ++warp) ++races.ticks[warp];
}

// The number of the mbarrier at an address, or -1.
CONVKIT_HOST_UNSEEN int mbarrier_at(const void* address) {
    size_t offset;
    return offset_of(address, offset) ? races.numbers[offset / 4] - 1 : -1;
}

CONVKIT_HOST_UNSEEN void on_init(const void* address) {
    Races& r = races;
    size_t offset;
    on_access(address, 8, WRITE, __builtin_return_address(0));
    if (!offset_of(address, offset)) return;
    if (r.count == MBARRIERS) {
        say("there are too many mbarriers to look for races");
        say_where();
        stop();
    }
    r.mbarriers[r.count] = {0, false};
    memset(r.waiting + size_t(r.count) * r.width, 0, sizeof(unsigned) * r.width);
    r.numbers[offset / 4] = (unsigned char)++r.count;
}

CONVKIT_HOST_UNSEEN void on_arrive(const void* address) {
    Races& r = races;
    on_access(address, 8, ATOMIC, __builtin_return_address(0));
    const int k = mbarrier_at(address), self = int(current - fibres);
    if (k < 0) return;
    clock_of(self)[self] = r.ticks[self / WARP]++;
    learn(r.waiting + size_t(k) * r.width, clock_of(self));
}

// The current thread's arrival was the last one of a phase. It knows so if it knows of all others, and of no copy.
CONVKIT_HOST_UNSEEN void on_phase(const void* address) {
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

// A phase of this parity is over for the current thread.
CONVKIT_HOST_UNSEEN void on_wait(const void* address, unsigned parity) {
    Races& r = races;
    on_access(address, 8, ATOMIC, __builtin_return_address(0));
    const int k = mbarrier_at(address);
    if (k < 0) return;
    unsigned* const clock = clock_of(int(current - fibres));
    const unsigned known = clock[threads + k], over = r.mbarriers[k].over;  // the phase `known - 1` has that parity:
    if (((known + 1) & 1) == parity || known >= over) return;
    if (known + PHASES >= over) learn(clock, r.ended + (size_t(k) * PHASES + known % PHASES) * r.width);
    else clock[threads + k] = known + 1;
}

// The current thread begins a copy whose end the mbarrier tells.
CONVKIT_HOST_UNSEEN void on_copy(const void* address, size_t size, const void* mbarrier) {
    Races& r = races;
    size_t offset;
    const int k = mbarrier_at(mbarrier), self = int(current - fibres);
    if (k < 0 || size == 0 || !offset_of(address, offset)) return;
    const unsigned place = unsigned(uintptr_t(__builtin_return_address(0)) - 1 - r.code);
    const Record record = {0, r.mbarriers[k].over + 1, unsigned(self), place, (unsigned short)(COPY | k), 0, WRITE};
    note_bytes(offset, size, record, self);
    r.mbarriers[k].copies = true;
    if (r.copied == COPIES) memmove(r.copies, r.copies + 1, sizeof(Copy) * --r.copied);  // the oldest
    r.copies[r.copied++] = {unsigned(offset), unsigned(offset + size), record};
}

// Accesses that do not count, while there is one of these; it must not last while the thread waits.
struct Quiet {
    Quiet() { ++races.quiet; }
    ~Quiet() { --races.quiet; }
};

CONVKIT_HOST_UNSEEN void on_atomic(const void* address, size_t size) {
    on_access(address, size, ATOMIC, __builtin_return_address(0));
}

#else

inline bool begin_races(void*, size_t) { return true; }
inline void end_races() {}
inline void begin_block() {}
inline void meet_block() {}
inline void meet_lanes(int, unsigned) {}
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

inline bool is_ready(const Fibre* fibre) {
    const Quiet quiet;
    return fibre->ready(fibre->watched, fibre->wanted);
}

}  // namespace convkit_host

#if CONVKIT_HOST_RACES

// What the compiler calls.
#define CONVKIT_HOST_ACCESS(name, size, access)                                                                    \
    extern "C" __attribute__((no_sanitize("thread"), visibility("hidden"))) void __tsan_##name(void* address) {    \
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

#define CONVKIT_HOST_HOOK extern "C" __attribute__((no_sanitize("thread"), visibility("hidden")))
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
