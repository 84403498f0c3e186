/* SPDX-License-Identifier: Apache-2.0 */
/* A queue of records in a file. The one idea: an entry is one allocation, so it is written as it
 * lies in memory and its pointers are moved when it comes back. The file has no name and dies with
 * the process: it saves memory, it does not keep results. Nothing in it has been acked, so a kill
 * -9 loses none: its messages are delivered again and the tasks run again. Who waits for a record
 * stays in memory, so that what cannot be read back as it was is told, and its task runs again
 * too. */
#include "worker/store/spool.h"

#include "proto/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

struct spool {
    char *folder;
    int64_t max_size;
    int fd; /* -1: none yet */
    off_t end;
    struct place *first, *last;
};

/* Of one record, in the order of the file. */
struct place {
    struct place *next;
    size_t size;
    off_t at;
    unsigned long sum;
    const struct store_entry *was_at;
    store_done_fn *fn;
    void *arg;
    struct store *store;
};

struct spool *spool_open(const char *folder, int64_t max_size)
{
    struct spool *s = mem_alloc(sizeof *s);
    *s = (struct spool){.folder = mem_dup(folder ? folder : "/var/tmp"), .max_size = max_size, .fd = -1};
    return s;
}

void spool_close(struct spool *s)
{
    if (s->fd >= 0)
        close(s->fd);
    for (struct place *p; (p = s->first);) {
        s->first = p->next;
        free(p);
    }
    free(s->folder);
    free(s);
}

bool spool_is_empty(const struct spool *s)
{
    return !s->first;
}

static int open_file(struct spool *s, struct error *err)
{
    if (s->fd >= 0)
        return 0;
    s->fd = open(s->folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (s->fd < 0 &&
        (errno == EOPNOTSUPP || errno == EISDIR)) { /* not every file system has them */
        char *name = mem_printf("%s/cworker-XXXXXX", s->folder);
        s->fd = mkostemp(name, O_CLOEXEC);
        if (s->fd >= 0)
            unlink(name);
        free(name);
    }
    return s->fd >= 0 ? 0
                      : error_set(err, ERROR_SYSTEM, "no spool file in %s: %s", s->folder,
                                  strerror(errno));
}

static bool write_all(int fd, const void *data, size_t size, off_t at)
{
    const char *from = data;
    while (size > 0) {
        ssize_t n = pwrite(fd, from, size, at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        from += n;
        at += n;
        size -= (size_t)n;
    }
    return true;
}

static bool read_all(int fd, void *data, size_t size, off_t at)
{
    char *to = data;
    while (size > 0) {
        ssize_t n = pread(fd, to, size, at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        to += n;
        at += n;
        size -= (size_t)n;
    }
    return true;
}

int spool_push(struct spool *s, struct store_entry *e, struct error *err)
{
    if (s->end + (off_t)e->size > s->max_size)
        return error_set(err, ERROR_TOO_BIG, "the spool file has reached its limit");
    if (open_file(s, err) < 0)
        return err->code;
    if (!write_all(s->fd, e, e->size, s->end))
        return error_set(err, ERROR_SYSTEM, "spool file in %s: %s", s->folder, strerror(errno));
    struct place *p = mem_alloc(sizeof *p);
    *p = (struct place){.size = e->size, .at = s->end, .sum = crc32_z(0, (const void *)e, e->size),
                        .was_at = e, .fn = e->fn, .arg = e->arg, .store = e->store};
    *(s->first ? &s->last->next : &s->first) = p;
    s->last = p;
    s->end += (off_t)e->size;
    entry_free(e);
    return 0;
}

/* What its owner has to hear is all that is left of it. */
static struct store_entry *entry_lost(const struct place *p)
{
    struct store_entry *e = mem_zalloc(sizeof *e);
    *e = (struct store_entry){.fn = p->fn, .arg = p->arg, .store = p->store, .size = p->size,
                              .code = ERROR_LOST};
    return e;
}

static struct store_entry *entry_read(const struct spool *s, const struct place *p)
{
    struct store_entry *e = mem_alloc(p->size);
    if (!read_all(s->fd, e, p->size, p->at) || crc32_z(0, (const void *)e, p->size) != p->sum) {
        free(e);
        return entry_lost(p);
    }
    entry_move(e, (uintptr_t)e - (uintptr_t)p->was_at);
    return e;
}

struct store_entry *spool_pop(struct spool *s)
{
    struct place *p = s->first;
    if (!p)
        return NULL;
    struct store_entry *e = entry_read(s, p);
    s->first = p->next;
    free(p);
    if (!s->first) {
        s->end = 0;
        if (ftruncate(s->fd, 0) < 0)
            return e; /* the space comes back when it is written over */
    }
    return e;
}
