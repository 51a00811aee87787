/*
** A disk that fails on command: loaded before all other libraries, it lets calls of the system fail whose path fits a
** rule. REPLICATE_FAULTS names the file of rules, which may change at any time; a line is
**
**     <call> <errno> <part of the path>
**
** where the call is write, sync, rename or read. Each failure adds a byte to <rules>.hits. Children do not inherit it.
*/
#define _GNU_SOURCE

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static char rules_path[4000];
static char hits_path[4010];

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("REPLICATE_FAULTS");
    if (path) {
        snprintf(rules_path, sizeof rules_path, "%s", path);
        snprintf(hits_path, sizeof hits_path, "%s.hits", path);
    }
    unsetenv("LD_PRELOAD");
}

/* The number of the error that this call shall fail with; 0 for none. */
static int fault(const char *call, const char *path)
{
    char text[2000], *line, *rest = text;
    ssize_t length;
    long fd = syscall(SYS_openat, AT_FDCWD, rules_path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    length = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    if (length <= 0)
        return 0;
    text[length] = '\0';
    while ((line = strsep(&rest, "\n"))) {
        char name[20], part[1000];
        int number;
        if (sscanf(line, "%19s %d %999s", name, &number, part) != 3 || strcmp(name, call) || !strstr(path, part))
            continue;
        fd = syscall(SYS_openat, AT_FDCWD, hits_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (fd >= 0) {
            syscall(SYS_write, fd, "x", 1);
            syscall(SYS_close, fd);
        }
        return number;
    }
    return 0;
}

static int fault_of_fd(const char *call, int fd)
{
    char link[64], path[5000];
    ssize_t length;
    if (!rules_path[0])
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    if (length <= 0)
        return 0;
    path[length] = '\0';
    return fault(call, path);
}

#define FAIL_IF(number)        \
    do {                       \
        int failure = number;  \
        if (failure) {         \
            errno = failure;   \
            return -1;         \
        }                      \
    } while (0)

#define NEXT(type, name) ((type)dlsym(RTLD_NEXT, name))

ssize_t write(int fd, const void *bytes, size_t size)
{
    FAIL_IF(fault_of_fd("write", fd));
    return NEXT(ssize_t (*)(int, const void *, size_t), "write")(fd, bytes, size);
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at)
{
    FAIL_IF(fault_of_fd("write", fd));
    return NEXT(ssize_t (*)(int, const void *, size_t, off_t), "pwrite")(fd, bytes, size, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at)
{
    FAIL_IF(fault_of_fd("write", fd));
    return NEXT(ssize_t (*)(int, const void *, size_t, off64_t), "pwrite64")(fd, bytes, size, at);
}

int ftruncate(int fd, off_t size)
{
    FAIL_IF(fault_of_fd("write", fd));
    return NEXT(int (*)(int, off_t), "ftruncate")(fd, size);
}

int ftruncate64(int fd, off64_t size)
{
    FAIL_IF(fault_of_fd("write", fd));
    return NEXT(int (*)(int, off64_t), "ftruncate64")(fd, size);
}

ssize_t read(int fd, void *bytes, size_t size)
{
    FAIL_IF(fault_of_fd("read", fd));
    return NEXT(ssize_t (*)(int, void *, size_t), "read")(fd, bytes, size);
}

ssize_t pread(int fd, void *bytes, size_t size, off_t at)
{
    FAIL_IF(fault_of_fd("read", fd));
    return NEXT(ssize_t (*)(int, void *, size_t, off_t), "pread")(fd, bytes, size, at);
}

ssize_t pread64(int fd, void *bytes, size_t size, off64_t at)
{
    FAIL_IF(fault_of_fd("read", fd));
    return NEXT(ssize_t (*)(int, void *, size_t, off64_t), "pread64")(fd, bytes, size, at);
}

int fsync(int fd)
{
    FAIL_IF(fault_of_fd("sync", fd));
    return NEXT(int (*)(int), "fsync")(fd);
}

int fdatasync(int fd)
{
    FAIL_IF(fault_of_fd("sync", fd));
    return NEXT(int (*)(int), "fdatasync")(fd);
}

int rename(const char *from, const char *to)
{
    FAIL_IF(rules_path[0] ? fault("rename", to) : 0);
    return NEXT(int (*)(const char *, const char *), "rename")(from, to);
}
