/* Preloaded into a server: fsync(2) and fdatasync(2) of SQLite's write-ahead log fail with EIO, as often as the file
 * that FAILING_SYNCS names has bytes; each failure removes one. What was written before stays written. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int fails(int fd) {
    char link[64], path[4096];
    const char *control = getenv("FAILING_SYNCS");
    struct stat left;
    if (!control || stat(control, &left) || left.st_size == 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 4 || memcmp(path + length - 4, "-wal", 4)) return 0;
    if (truncate(control, left.st_size - 1)) abort();
    errno = EIO;
    return 1;
}

int fsync(int fd) {
    if (fails(fd)) return -1;
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}

int fdatasync(int fd) {
    if (fails(fd)) return -1;
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
