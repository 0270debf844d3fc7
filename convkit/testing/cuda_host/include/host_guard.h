// Guarded arrays and the entry of the library, for host.h.

namespace convkit_host {

#if CONVKIT_HOST_CORE

// --- Guarded arrays --------------------------------------------------------------------------------------------------

inline bool place(Span& span, void* value) {
    const size_t page = 4096, bytes = (span.bytes + span.alignment - 1) / span.alignment * span.alignment;
    const size_t pages = (bytes + page - 1) / page * page;
    span.mapped_bytes = pages + 2 * PAGE_GUARD;
    span.mapped = map(span.mapped_bytes, PROT_NONE, MAP_SHARED);
    if (span.mapped == nullptr) return false;
    unsigned char* const start = span.mapped + PAGE_GUARD;
    if (pages != 0) mprotect(start, pages, PROT_READ | PROT_WRITE);
    memset(start, 0xff, pages);
    span.placed = request.guard == 2 ? start : start + pages - bytes;
    memcpy(span.placed, span.data, span.bytes);
    if (!span.output && pages != 0) mprotect(start, pages, PROT_READ);
    memcpy(value, &span.placed, sizeof(void*));
    return true;
}

// Copy an output back, and report writes outside of it.
inline void take(Span& span) {
    const unsigned char *byte = span.mapped + PAGE_GUARD, *const end = span.mapped + span.mapped_bytes - PAGE_GUARD;
    for (; span.output && byte < end; ++byte) {
        if (byte == span.placed) byte += span.bytes;
        if (byte < end && *byte != 0xff) {
            report("%swrite at byte %td of '%s', which has %zu", *request.message ? "; " : "", byte - span.placed,
                span.name, span.bytes);
            break;
        }
    }
    if (span.output) memcpy(span.data, span.placed, span.bytes);
}

[[noreturn]] inline void on_signal(int number, siginfo_t* info, void* context) {
    const auto& machine = static_cast<ucontext_t*>(context)->uc_mcontext;
#if defined(__x86_64__)
    const char* const access = machine.gregs[REG_ERR] & 2 ? "write" : "read";
    const uintptr_t counter = uintptr_t(machine.gregs[REG_RIP]);
#elif defined(__aarch64__)
    const char* const access = "access";
    const uintptr_t counter = uintptr_t(machine.pc);
#endif
    Dl_info library;
    const bool known = dladdr(reinterpret_cast<void*>(counter), &library) != 0;
    const uintptr_t offset = known ? counter - uintptr_t(library.dli_fbase) : 0;
    const unsigned char* const address = static_cast<unsigned char*>(info->si_addr);
    if (number == SIGALRM) {
        report("no end after %u seconds", request.timeout);
    } else if (number == SIGILL || number == SIGTRAP) {
        report("undefined behaviour (misaligned access, index beyond its array, overflow, shift or division)");
    } else if (number == SIGFPE) {
        report("division by zero");
    } else {
        const Span* hit = nullptr;
        for (int i = 0; i < request.count; ++i) {
            const Span& span = request.spans[i];
            if (span.mapped && address >= span.mapped && address < span.mapped + span.mapped_bytes) hit = &span;
        }
        const unsigned char* const end = shared_region + (SHARED + 4095) / 4096 * 4096;
        if (hit != nullptr) {
            report("%s at byte %td of '%s', which has %zu", access, address - hit->placed, hit->name, hit->bytes);
        } else if (shared_region != nullptr && address >= end && address < end + 4096) {
            report("%s at byte %td of the dynamic shared memory, which has %u", access, address - dynamic_memory,
                request.shared);
        } else {
            report("%s at address %p, where nothing is", access, static_cast<const void*>(address));
        }
    }
    report_thread();
    report(", [pc %zx]", size_t(offset));
    _exit(1);
}

inline void catch_signals() {
    static unsigned char stack[64 * 1024];
    stack_t alternative = {};
    alternative.ss_sp = stack;
    alternative.ss_size = sizeof stack;
    sigaltstack(&alternative, nullptr);
    struct sigaction action = {};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    for (const int number : {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE, SIGALRM}) sigaction(number, &action, nullptr);
    if (request.timeout != 0) alarm(request.timeout);
}

// Run the grid in a child process on copies of the arrays that end or begin at inaccessible pages.
void run_guarded() {
    char* const message = request.message;
    char* const told = reinterpret_cast<char*>(map(request.capacity, PROT_READ | PROT_WRITE, MAP_SHARED));
    bool good = told != nullptr;
    if (good) request.message = told;
    for (int i = 0; i < request.count && good; ++i) {
        if (request.spans[i].data != nullptr) good = place(request.spans[i], request.values[i]);
    }
    const pid_t child = good ? fork() : -1;
    if (child == 0) {
        catch_signals();
        _exit(run_grid() ? 0 : 1);
    }
    int status = 0;
    if (child < 0) {
        report("the host could not start a guarded run");
    } else {
        while (waitpid(child, &status, 0) < 0) {
        }
        if (status != 0 && *request.message == 0) report("the run ended with status %d", status);
    }
    for (int i = 0; i < request.count; ++i) {
        Span& span = request.spans[i];
        if (span.mapped == nullptr) continue;
        if (child > 0) take(span);
        munmap(span.mapped, span.mapped_bytes);
    }
    if (told == nullptr) return;
    memcpy(message, told, request.capacity);
    munmap(told, request.capacity);
}

#endif

// --- The entry of the library ----------------------------------------------------------------------------------------

template <typename P>
int describe() {  // kinds and sizes of the parameters, which the Python module compares with the declaration
    using Bare = std::remove_pointer_t<P>;
    if constexpr (std::is_pointer_v<P>) {
        if constexpr (std::is_void_v<Bare>) return 'p' << 8;
        else return 'p' << 8 | int(sizeof(Bare));
    } else {
        return (std::is_floating_point_v<P> ? 'f' : std::is_unsigned_v<P> ? 'u' : 'i') << 8 | int(sizeof(P));
    }
}

template <typename... P>
int describe_all(void (*)(P...), int* kinds) {
    int count = 0;
    ((kinds[count++] = describe<P>()), ...);
    return count;
}

template <typename... P, size_t... I>
void apply(void (*kernel)(P...), void** values, std::index_sequence<I...>) {
    kernel(*static_cast<P*>(values[I])...);
}

template <typename... P>
void apply(void (*kernel)(P...), void** values) {
    apply(kernel, values, std::index_sequence_for<P...>());
}

}  // namespace convkit_host

#define CONVKIT_HOST_ENTRY(name)                                                                                   \
    extern "C" __attribute__((visibility("default"))) int convkit_host_describe(int* kinds) {                      \
        return convkit_host::describe_all(&name, kinds);                                                           \
    }                                                                                                              \
    extern "C" __attribute__((visibility("default"))) void convkit_host_run(convkit_host::Request* request) {      \
        convkit_host::request = *request;                                                                          \
        convkit_host::body = [](void** values) { convkit_host::apply(&name, values); };                            \
        if (request->guard != 0) convkit_host::run_guarded();                                                      \
        else convkit_host::run_grid();                                                                             \
    }

