/* Loaded before the C library: makes the nth write, fsync, rename or creation below a folder fail, and moves the clock. Both are off at first. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static char folder[4096], log_path[4096];
static long wanted, passed;
static int error_number, for_good;

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* From now on the calls below `path` are counted. The nth fails with `number`, and with `ever_after` all that follow it. What failed is
   appended to `log`. */
void failing_calls_arm(const char *path, long nth, int number, int ever_after, const char *log) {
    snprintf(log_path, sizeof log_path, "%s", log);
    wanted = nth, error_number = number, for_good = ever_after, passed = 0;
    snprintf(folder, sizeof folder, "%s", path);
}

long failing_calls_passed(void) { return passed; }

static int fails(const char *call, const char *path) {
    if (!folder[0] || !path || strncmp(path, folder, strlen(folder))) return 0;
    long now = __atomic_add_fetch(&passed, 1, __ATOMIC_SEQ_CST);
    if (now != wanted && !(for_good && wanted && now > wanted)) return 0;
    if (now == wanted) {
        REAL(open64);
        char line[5000];
        int length = snprintf(line, sizeof line, "%s %s\n", call, path), handle = real(log_path, O_WRONLY | O_CREAT | O_APPEND, 0600);
        __typeof__(&write) put = (__typeof__(&write))dlsym(RTLD_NEXT, "write");
        if (handle >= 0) put(handle, line, length), close(handle);
    }
    errno = error_number;
    return 1;
}

static int fails_on(const char *call, int handle) {
    char link[64], path[4096];
    if (!folder[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return fails(call, path);
}

#define OPEN(name)                                                                   \
    int name(const char *path, int flags, ...) {                                     \
        REAL(name);                                                                  \
        va_list rest;                                                                \
        va_start(rest, flags);                                                       \
        mode_t mode = va_arg(rest, mode_t);                                          \
        va_end(rest);                                                                \
        return (flags & O_CREAT) && fails("create", path) ? -1 : real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                     \
    int name(int at, const char *path, int flags, ...) {                                 \
        REAL(name);                                                                      \
        va_list rest;                                                                    \
        va_start(rest, flags);                                                           \
        mode_t mode = va_arg(rest, mode_t);                                              \
        va_end(rest);                                                                    \
        return (flags & O_CREAT) && fails("create", path) ? -1 : real(at, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

#define ON_HANDLE(result, name, more, given)          \
    result name(int handle more) {                    \
        REAL(name);                                   \
        return fails_on(#name, handle) ? -1 : real(handle given); \
    }
#define AND(...) , __VA_ARGS__
ON_HANDLE(ssize_t, write, AND(const void *from, size_t size), AND(from, size))
ON_HANDLE(ssize_t, pwrite, AND(const void *from, size_t size, off_t at), AND(from, size, at))
ON_HANDLE(ssize_t, pwrite64, AND(const void *from, size_t size, off64_t at), AND(from, size, at))
ON_HANDLE(ssize_t, writev, AND(const struct iovec *parts, int count), AND(parts, count))
ON_HANDLE(int, fsync, , )
ON_HANDLE(int, fdatasync, , )
ON_HANDLE(int, ftruncate, AND(off_t size), AND(size))
ON_HANDLE(int, ftruncate64, AND(off64_t size), AND(size))

size_t fwrite(const void *from, size_t size, size_t count, FILE *file) {
    REAL(fwrite);
    return folder[0] && fails_on("fwrite", fileno(file)) ? 0 : real(from, size, count, file);
}

int rename(const char *from, const char *to) {
    REAL(rename);
    return fails("rename", to) ? -1 : real(from, to);
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    return fails("mkdir", path) ? -1 : real(path, mode);
}

int symlink(const char *target, const char *path) {
    REAL(symlink);
    return fails("symlink", path) ? -1 : real(target, path);
}

int link(const char *from, const char *to) {
    REAL(link);
    return fails("link", to) ? -1 : real(from, to);
}

/* A wrong clock: seconds that are added to the time of day. */
static long moved;

void failing_calls_move_clock(long seconds) { moved = seconds; }

int clock_gettime(clockid_t id, struct timespec *found) {
    REAL(clock_gettime);
    int result = real(id, found);
    if (id == CLOCK_REALTIME) found->tv_sec += moved;
    return result;
}
