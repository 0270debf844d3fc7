/* Preloaded: a signal or an errno at the n-th change of files, and a log of names and addresses that are looked up.
 *
 * faults_arm(n, kind, value) starts the count in this process: at its n-th change, kind 1 sends the signal `value` right
 * before the change, kind 2 right after it, kind 3 lets the change fail with the errno `value`, kind 4 that one and all
 * after it. faults_count() returns the number of changes since. FAULTS_NETWORK names the file for the log.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static int armed, at, kind, value, count;

void faults_arm(int n, int what, int how) { count = 0; at = n; kind = what; value = how; armed = 1; }
int faults_count(void) { return count; }

static int before(void) {
    if (!armed) return 0;
    ++count;
    if (count == at && kind == 1) { armed = 0; kill(getpid(), value); }
    if ((count == at && kind == 3) || (count >= at && kind == 4)) { errno = value; return 1; }
    return 0;
}

static void after(void) {
    if (armed && count == at && kind == 2) { int saved = errno; armed = 0; kill(getpid(), value); errno = saved; }
}

#define NEXT(name) static __typeof__(name) *next; if (!next) next = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)
#define CHANGE(type, name, parameters, arguments) \
    type name parameters { NEXT(name); if (before()) return -1; type result = next arguments; after(); return result; }

CHANGE(int, mkdir, (const char *path, mode_t mode), (path, mode))
CHANGE(int, rmdir, (const char *path), (path))
CHANGE(int, unlink, (const char *path), (path))
CHANGE(int, unlinkat, (int folder, const char *path, int flags), (folder, path, flags))
CHANGE(int, rename, (const char *from, const char *to), (from, to))
CHANGE(int, renameat2, (int a, const char *from, int b, const char *to, unsigned flags), (a, from, b, to, flags))
CHANGE(int, chmod, (const char *path, mode_t mode), (path, mode))
CHANGE(int, fsync, (int file), (file))

ssize_t write(int file, const void *data, size_t size) {
    NEXT(write);
    if (file > 2 && before()) return -1;
    ssize_t result = next(file, data, size);
    if (file > 2) after();
    return result;
}

#define OPEN(name, first, pass) \
    int name first { \
        NEXT(name); mode_t mode = 0; va_list list; va_start(list, flags); mode = va_arg(list, int); va_end(list); \
        int writes = (flags & O_ACCMODE) != O_RDONLY; \
        if (writes && before()) return -1; \
        int result = next pass; \
        if (writes) after(); \
        return result; }

OPEN(open, (const char *path, int flags, ...), (path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), (path, flags, mode))
OPEN(openat, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))

static void note(const char *text) {
    const char *file = getenv("FAULTS_NETWORK");
    FILE *stream = file ? fopen(file, "a") : NULL;
    if (stream) { fprintf(stream, "%s\n", text); fclose(stream); }
}

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    NEXT(getaddrinfo);
    note(name ? name : "(address)");
    return next(name, service, hints, found);
}

int connect(int file, const struct sockaddr *address, socklen_t size) {
    NEXT(connect);
    if (address && (address->sa_family == AF_INET || address->sa_family == AF_INET6)) note("connect");
    return next(file, address, size);
}
