/* Loaded before the C library in the crash test: counts what changes files below VEGHE_SHIM_DIR, and at call number
 * VEGHE_SHIM_AT either ends the process as a power cut would (VEGHE_SHIM_MODE=cut: everything not synced is undone, file
 * by file, and half of the write stays or nothing), or as kill -9 would (kill), or fails once (eio, enospc).
 * Creating, removing and renaming files count as durable at once; the undo journal is in memory, per inode.
 * Shared-memory files (-shm) are rebuilt by SQLite and are left out. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

struct undo { dev_t dev; ino_t ino; off_t at; size_t len; off_t size; char *old; char path[PATH_MAX]; struct undo *next; };

static struct undo *journal;
static long calls;
static pthread_mutex_t mutex = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_write)(int, const void *, size_t);
static int (*real_fsync)(int), (*real_fdatasync)(int), (*real_ftruncate)(int, off_t);
static int (*real_unlink)(const char *), (*real_rename)(const char *, const char *);

__attribute__((constructor)) static void start(void) {
  real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
  real_write = dlsym(RTLD_NEXT, "write");
  real_fsync = dlsym(RTLD_NEXT, "fsync");
  real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
  real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
  real_unlink = dlsym(RTLD_NEXT, "unlink");
  real_rename = dlsym(RTLD_NEXT, "rename");
}

static int ours_path(const char *path) {
  const char *dir = getenv("VEGHE_SHIM_DIR");
  size_t n = strlen(path);
  if (!dir || strncmp(path, dir, strlen(dir)) != 0) return 0;
  return !(n > 4 && strcmp(path + n - 4, "-shm") == 0) && !(n > 5 && strcmp(path + n - 5, "/lock") == 0);
}

static int ours(int fd, char *path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, PATH_MAX - 1);
  if (n <= 0) return 0;
  path[n] = 0;
  return ours_path(path);
}

static void undo_all(void) {
  for (struct undo *u = journal; u; u = u->next) {
    int fd = open(u->path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) continue;
    struct stat s;
    if (fstat(fd, &s) == 0 && s.st_ino == u->ino && s.st_dev == u->dev) {
      if (u->len) real_pwrite(fd, u->old, u->len, u->at);
      real_ftruncate(fd, u->size);
    }
    close(fd);
  }
}

/* Remembers what bytes [at, at+len) and the size were; the newest first, so that undoing goes backwards. */
static void remember(int fd, const char *path, off_t at, size_t len) {
  struct stat s;
  if (fstat(fd, &s) != 0) return;
  struct undo *u = calloc(1, sizeof *u);
  u->dev = s.st_dev; u->ino = s.st_ino; u->at = at; u->size = s.st_size;
  strcpy(u->path, path);
  if (at < s.st_size) {
    u->len = (size_t)(s.st_size - at) < len ? (size_t)(s.st_size - at) : len;
    u->old = malloc(u->len);
    int in = open(path, O_RDONLY | O_CLOEXEC);
    if (in < 0 || pread(in, u->old, u->len, at) != (ssize_t)u->len) u->len = 0;
    if (in >= 0) close(in);
  }
  u->next = journal;
  journal = u;
}

static void synced(int fd) {
  struct stat s;
  if (fstat(fd, &s) != 0) return;
  for (struct undo **at = &journal; *at;) {
    struct undo *u = *at;
    if (u->dev == s.st_dev && u->ino == s.st_ino) { *at = u->next; free(u->old); free(u); } else at = &u->next;
  }
}

static void cut(void) {
  /* VEGHE_SHIM_MODE=kill: a killed process instead of a power cut, the page cache survives. */
  if (strcmp(getenv("VEGHE_SHIM_MODE"), "cut") == 0) undo_all();
}

/* 0: go on. 1: cut now, after a part. -1: fail, errno is set. */
static int turn(void) {
  const char *at = getenv("VEGHE_SHIM_AT"), *mode = getenv("VEGHE_SHIM_MODE");
  calls++;
  if (!at || !mode || calls != atol(at)) return 0;
  if (strcmp(mode, "cut") == 0 || strcmp(mode, "kill") == 0) return 1;
  errno = strcmp(mode, "enospc") == 0 ? ENOSPC : EIO;
  return -1;
}

static ssize_t change(int fd, const char *path, const void *bytes, size_t len, off_t at, int positioned) {
  int t = turn();
  if (t < 0) return -1;
  if (t == 1) {
    /* Of two cuts one leaves half of this very write behind. */
    cut();
    if (calls % 2) real_pwrite(fd, bytes, len / 2, at);
    _exit(77);
  }
  remember(fd, path, at, len);
  return positioned ? real_pwrite(fd, bytes, len, at) : real_write(fd, bytes, len);
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off_t at) {
  char path[PATH_MAX];
  if (!ours(fd, path)) return real_pwrite(fd, bytes, len, at);
  pthread_mutex_lock(&mutex);
  ssize_t n = change(fd, path, bytes, len, at, 1);
  pthread_mutex_unlock(&mutex);
  return n;
}
ssize_t pwrite(int fd, const void *bytes, size_t len, off_t at) { return pwrite64(fd, bytes, len, at); }

ssize_t write(int fd, const void *bytes, size_t len) {
  char path[PATH_MAX];
  if (!real_write) start();
  if (!ours(fd, path)) return real_write(fd, bytes, len);
  pthread_mutex_lock(&mutex);
  ssize_t n = change(fd, path, bytes, len, lseek(fd, 0, SEEK_CUR), 0);
  pthread_mutex_unlock(&mutex);
  return n;
}

ssize_t writev(int fd, const struct iovec *v, int n) {
  ssize_t all = 0;
  for (int i = 0; i < n; i++) {
    ssize_t one = write(fd, v[i].iov_base, v[i].iov_len);
    if (one < 0) return all ? all : -1;
    all += one;
  }
  return all;
}

static int sync_file(int fd, int (*real)(int)) {
  char path[PATH_MAX];
  if (!ours(fd, path)) return real(fd);
  pthread_mutex_lock(&mutex);
  int t = turn(), result = -1;
  if (t == 1) { cut(); _exit(77); }
  if (t == 0) { result = real(fd); synced(fd); }
  pthread_mutex_unlock(&mutex);
  return result;
}
int fsync(int fd) { return sync_file(fd, real_fsync); }
int fdatasync(int fd) { return sync_file(fd, real_fdatasync); }

int ftruncate64(int fd, off_t size) {
  char path[PATH_MAX];
  if (!ours(fd, path)) return real_ftruncate(fd, size);
  pthread_mutex_lock(&mutex);
  int t = turn(), result = -1;
  if (t == 1) { cut(); _exit(77); }
  if (t == 0) { remember(fd, path, size, SIZE_MAX / 2); result = real_ftruncate(fd, size); }
  pthread_mutex_unlock(&mutex);
  return result;
}
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

static int name_change(const char *path, const char *to) {
  if (!ours_path(path)) return to ? real_rename(path, to) : real_unlink(path);
  pthread_mutex_lock(&mutex);
  int t = turn(), result = -1;
  if (t == 1) { cut(); _exit(77); }
  if (t == 0) result = to ? real_rename(path, to) : real_unlink(path);
  pthread_mutex_unlock(&mutex);
  return result;
}
int unlink(const char *path) { return name_change(path, NULL); }
int rename(const char *from, const char *to) { return name_change(from, to); }

/* The number of counted calls, for the run that fails nowhere. */
__attribute__((destructor)) static void report(void) {
  const char *to = getenv("VEGHE_SHIM_COUNT");
  if (!to) return;
  FILE *f = fopen(to, "w");
  if (f) { fprintf(f, "%ld\n", calls); fclose(f); }
}
