/* A disk that lies, for the drills: preloaded into the bot, it watches every file below SHIM_DIR.

   SHIM_LOG   every operation is appended there, so that the disk as it was at any moment can be rebuilt (disk.py):
              what had been synced, what had not, and how many webhooks had been answered 200 by then.
   SHIM_FAIL  "n:errno": the n-th write, truncation or sync fails with that error, once. "n:errno:on": from then on.
              A sync that fails says so on stderr.
   SHIM_KILL  "n": the process is killed just before the n-th of them.

   A record: op (1 byte), file (4), offset (8), length (4), then that many bytes. Ops: O opened (the path), W written,
   T truncated to offset, S synced, U unlinked (the path), R renamed (old path, NUL, new path), A answered 200,
   offset times. Not modelled: directory entries, which count as durable at once, and memory maps (only -shm has one). */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define MOST 4096
#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int files[MOST];   /* descriptor -> file number, 0: not watched */
static int appends[MOST];
static int numbers = 0;
static long operations = 0;
static int log_fd = -1;

static int watched(const char *path) {
    const char *folder = getenv("SHIM_DIR");
    return folder && path && strncmp(path, folder, strlen(folder)) == 0 && !strstr(path, ".log");
}

static void note(char op, int32_t file, int64_t offset, const void *bytes, uint32_t length) {
    const char *path = getenv("SHIM_LOG");
    unsigned char head[17];
    if (!path) return;
    REAL(ssize_t, "write", int, const void *, size_t);
    if (log_fd < 0) {
        int (*opening)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
        log_fd = opening(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    }
    head[0] = (unsigned char)op;
    memcpy(head + 1, &file, 4);
    memcpy(head + 5, &offset, 8);
    memcpy(head + 13, &length, 4);
    if (real(log_fd, head, 17) != 17 || (length && real(log_fd, bytes, length) != (ssize_t)length)) _exit(99);
}

/* Count one operation; 1 if it must fail, with errno set. */
static int trouble(void) {
    const char *fail = getenv("SHIM_FAIL"), *killing = getenv("SHIM_KILL");
    long at = 0;
    int code = 0;
    char rest[8] = "";
    operations++;
    if (killing && operations == atol(killing)) kill(getpid(), SIGKILL);
    if (fail && sscanf(fail, "%ld:%d:%7s", &at, &code, rest) >= 2 && (operations == at || (*rest && operations > at))) {
        errno = code;
        return 1;
    }
    return 0;
}

static int opened(int fd, const char *path, int flags) {
    char whole[4096];
    if (fd < 0 || fd >= MOST) return fd;
    files[fd] = 0;
    if (path[0] != '/' && getcwd(whole, sizeof whole - strlen(path) - 2)) {
        strcat(strcat(whole, "/"), path);
        path = whole;
    }
    if ((flags & O_ACCMODE) != O_RDONLY && watched(path)) {
        pthread_mutex_lock(&lock);
        files[fd] = ++numbers;
        appends[fd] = flags & O_APPEND;
        note('O', files[fd], 0, path, strlen(path));
        if (flags & O_TRUNC) note('T', files[fd], 0, 0, 0);
        pthread_mutex_unlock(&lock);
    }
    return fd;
}

static mode_t mode_of(int flags, va_list more) { return flags & O_CREAT ? va_arg(more, mode_t) : 0; }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, #name, const char *, int, ...); \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = mode_of(flags, more); \
        va_end(more); \
        return opened(real(path, flags, mode), path, flags); \
    }
OPEN(open)
OPEN(open64)

int close(int fd) {
    REAL(int, "close", int);
    if (fd >= 0 && fd < MOST) files[fd] = 0;
    return real(fd);
}

static int file_of(int fd) { return fd >= 0 && fd < MOST ? files[fd] : 0; }

static void wrote(int fd, int64_t offset, const void *bytes, ssize_t count) {
    if (count > 0) note('W', file_of(fd), offset, bytes, (uint32_t)count);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    REAL(ssize_t, "write", int, const void *, size_t);
    if (!file_of(fd)) return real(fd, bytes, count);
    pthread_mutex_lock(&lock);
    ssize_t done = -1;
    if (!trouble()) {
        struct stat about;
        fstat(fd, &about);
        int64_t offset = appends[fd] ? about.st_size : lseek(fd, 0, SEEK_CUR);
        done = real(fd, bytes, count);
        wrote(fd, offset, bytes, done);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

#define PWRITE(name, offset_type) \
    ssize_t name(int fd, const void *bytes, size_t count, offset_type offset) { \
        REAL(ssize_t, #name, int, const void *, size_t, offset_type); \
        if (!file_of(fd)) return real(fd, bytes, count, offset); \
        pthread_mutex_lock(&lock); \
        ssize_t done = -1; \
        if (!trouble()) { \
            done = real(fd, bytes, count, offset); \
            wrote(fd, offset, bytes, done); \
        } \
        pthread_mutex_unlock(&lock); \
        return done; \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define SIMPLE(name, op, parameters, arguments, size) \
    int name parameters { \
        static int (*real) parameters; \
        if (!real) real = (int (*) parameters)dlsym(RTLD_NEXT, #name); \
        if (!file_of(fd)) return real arguments; \
        pthread_mutex_lock(&lock); \
        int done = -1; \
        if (trouble()) { if (op == 'S') dprintf(2, "shim: a sync failed\n"), errno = EIO; } \
        else if ((done = real arguments) == 0) note(op, file_of(fd), size, 0, 0); \
        pthread_mutex_unlock(&lock); \
        return done; \
    }
SIMPLE(fsync, 'S', (int fd), (fd), 0)
SIMPLE(fdatasync, 'S', (int fd), (fd), 0)
SIMPLE(ftruncate, 'T', (int fd, off_t size), (fd, size), size)
SIMPLE(ftruncate64, 'T', (int fd, off64_t size), (fd, size), size)

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    int done = real(path);
    if (done == 0 && watched(path)) {
        pthread_mutex_lock(&lock);
        note('U', 0, 0, path, strlen(path));
        pthread_mutex_unlock(&lock);
    }
    return done;
}

int rename(const char *old, const char *new) {
    REAL(int, "rename", const char *, const char *);
    int done = real(old, new);
    if (done == 0 && watched(new)) {
        char both[8192];
        int length = snprintf(both, sizeof both, "%s%c%s", old, 0, new);
        pthread_mutex_lock(&lock);
        note('R', 0, 0, both, (uint32_t)length);
        pthread_mutex_unlock(&lock);
    }
    return done;
}

ssize_t send(int fd, const void *bytes, size_t count, int flags) {
    REAL(ssize_t, "send", int, const void *, size_t, int);
    const char *at = bytes, *end = at + count;
    int64_t answers = 0;
    while (getenv("SHIM_LOG") && (at = memmem(at, (size_t)(end - at), "HTTP/1.1 200", 12))) {
        answers++;
        at += 12;
    }
    if (answers) { /* noted before it leaves: a promise is given as soon as anybody may hear it */
        pthread_mutex_lock(&lock);
        note('A', 0, answers, 0, 0);
        pthread_mutex_unlock(&lock);
    }
    return real(fd, bytes, count, flags);
}
