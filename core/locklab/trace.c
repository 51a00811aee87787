/*
** A witness inside the process: loaded before all other libraries, it writes down every call of the main thread
** that can change a lock or a file's length, as `strace -y` would print it, and needs no permission to trace.
**
** REPLICATE_TRACE names the file. Children do not inherit it.
*/
#define _GNU_SOURCE

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static int log_fd = -1;
static pid_t traced;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("REPLICATE_TRACE");
    if (path) {
        int low = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        /* A high number, out of the way of what is traced. */
        log_fd = (int)syscall(SYS_fcntl, low, F_DUPFD_CLOEXEC, 900);
        syscall(SYS_close, low);
        traced = getpid();
    }
    unsetenv("LD_PRELOAD");
}

static int is_traced(void)
{
    return log_fd >= 0 && syscall(SYS_gettid) == traced && getpid() == traced;
}

static void path_of(int fd, char *path, size_t size)
{
    char link[64];
    ssize_t length;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, size - 1);
    path[length < 0 ? 0 : length] = '\0';
}

__attribute__((format(printf, 1, 2))) static void note(const char *format, ...)
{
    char line[5000];
    va_list arguments;
    int length;
    va_start(arguments, format);
    length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    syscall(SYS_write, log_fd, line, (size_t)length);
}

#define NEXT(type, name) ((type)dlsym(RTLD_NEXT, name))

int close(int fd)
{
    char path[4096] = "";
    int result, error;
    if (is_traced()) path_of(fd, path, sizeof path);
    result = NEXT(int (*)(int), "close")(fd);
    error = errno;
    if (is_traced()) note("close(%d<%s>) = %d\n", fd, path, result);
    errno = error;
    return result;
}

static int duplicated(const char *name, int from, int to, int result)
{
    int error = errno;
    char path[4096];
    if (is_traced()) {
        path_of(from, path, sizeof path);
        note("%s(%d<%s>, %d) = %d\n", name, from, path, to, result);
    }
    errno = error;
    return result;
}

int dup2(int from, int to)
{
    return duplicated("dup2", from, to, NEXT(int (*)(int, int), "dup2")(from, to));
}

int dup3(int from, int to, int flags)
{
    return duplicated("dup3", from, to, NEXT(int (*)(int, int, int), "dup3")(from, to, flags));
}

static int cut(const char *name, int fd, off64_t length)
{
    char path[4096] = "";
    int result, error;
    if (is_traced()) path_of(fd, path, sizeof path);
    result = NEXT(int (*)(int, off64_t), name)(fd, length);
    error = errno;
    if (is_traced()) note("ftruncate(%d<%s>, %lld) = %d\n", fd, path, (long long)length, result);
    errno = error;
    return result;
}

int ftruncate64(int fd, off64_t length)
{
    return cut("ftruncate64", fd, length);
}

#if __SIZEOF_LONG__ == 8
int ftruncate(int fd, off_t length)
{
    return cut("ftruncate64", fd, length);
}
#endif

static const char *command_name(int command)
{
    switch (command) {
    case F_SETLK: return "F_SETLK";
    case F_SETLKW: return "F_SETLKW";
    case F_GETLK: return "F_GETLK";
    case F_OFD_SETLK: return "F_OFD_SETLK";
    case F_OFD_SETLKW: return "F_OFD_SETLKW";
    case F_OFD_GETLK: return "F_OFD_GETLK";
    default: return NULL;
    }
}

static int control(int fd, int command, void *argument)
{
    const char *name = command_name(command);
    char path[4096] = "";
    struct flock lock = {0};
    int result, error;
    if (!name || !is_traced()) return NEXT(int (*)(int, int, ...), "fcntl64")(fd, command, argument);
    path_of(fd, path, sizeof path);
    memcpy(&lock, argument, sizeof lock);
    result = NEXT(int (*)(int, int, ...), "fcntl64")(fd, command, argument);
    error = errno;
    note("fcntl(%d<%s>, %s, {l_type=%s, l_whence=%d, l_start=%lld, l_len=%lld}) = %d\n", fd, path, name,
         lock.l_type == F_WRLCK ? "F_WRLCK" : lock.l_type == F_RDLCK ? "F_RDLCK" : "F_UNLCK", lock.l_whence,
         (long long)lock.l_start, (long long)lock.l_len, result);
    errno = error;
    return result;
}

#define CONTROL(name)                             \
    int name(int fd, int command, ...)            \
    {                                             \
        va_list arguments;                        \
        void *argument;                           \
        va_start(arguments, command);             \
        argument = va_arg(arguments, void *);     \
        va_end(arguments);                        \
        return control(fd, command, argument);    \
    }

CONTROL(fcntl)
CONTROL(fcntl64)
