/*
** The fcntl() that our copy of SQLite calls once it is isolated.
**
** It is C because SQLite calls it through a variadic pointer, and on some processors (64-bit ARM of Apple)
** variadic arguments travel differently from fixed ones. It decides nothing: it asks Rust which descriptor
** owns the locks of a file and turns the classic lock commands into commands of open file descriptions.
*/
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64 /* as SQLite itself: on 32 bits the commands and the structure differ otherwise */

#include <fcntl.h>
#include <stdarg.h>

/* The owner's descriptor; -1: not one of ours; -2: refused, errno is set. */
static int (*owner_of)(int fd);

void replicate_fcntl_ask(int (*ask)(int fd))
{
    owner_of = ask;
}

static int of_description(int cmd)
{
    switch (cmd) {
    case F_SETLK: return F_OFD_SETLK;
    case F_SETLKW: return F_OFD_SETLKW;
    default: return F_OFD_GETLK;
    }
}

static int lock_command(int fd, int cmd, struct flock *lock)
{
    int owner = owner_of(fd);
    if (owner == -2) {
        return -1;
    }
    if (owner == -1) {
        return fcntl(fd, cmd, lock);
    }
    lock->l_pid = 0; /* SQLite leaves it as it was; these commands demand zero */
    return fcntl(owner, of_description(cmd), lock);
}

int replicate_fcntl(int fd, int cmd, ...)
{
    va_list arguments;
    int result;

    va_start(arguments, cmd);
    switch (cmd) {
    case F_SETLK:
    case F_SETLKW:
    case F_GETLK:
        result = lock_command(fd, cmd, va_arg(arguments, struct flock *));
        break;
    case F_GETFD:
    case F_GETFL:
    case F_SETFD:
    case F_SETFL:
        result = fcntl(fd, cmd, va_arg(arguments, int));
        break;
    default:
        result = fcntl(fd, cmd, va_arg(arguments, void *));
        break;
    }
    va_end(arguments);
    return result;
}
