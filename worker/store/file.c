/* SPDX-License-Identifier: Apache-2.0 */
/* Celery's filesystem backend: one file per record, the same JSON as in Redis. Each is written
 * under another name, synced and renamed, so that a reader never sees half of one; workers of one
 * folder take turns by a lock on it, so that a stored SUCCESS stays. */
#include "worker/store/thread.h"

#include "proto/base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define TEMPORARY ".cworker-"

struct file_store {
    int folder;
    char *path, *prefix;
    double expires;
    bool tidied;
    struct buf text;
};

static const char *path_of(const char *url)
{
    const char *path = url + strlen("file:");
    if (!strncmp(path, "//localhost/", 12))
        return path + 11;
    return !strncmp(path, "//", 2) ? path + 2 : path;
}

static void close_folder(void *state)
{
    struct file_store *f = state;
    close(f->folder);
    buf_done(&f->text);
    free(f->path);
    free(f->prefix);
    free(f);
}

static struct file_store *open_folder(const struct store_setup *setup, struct error *err)
{
    const char *path = path_of(setup->url);
    if (path[0] != '/') {
        error_set(err, ERROR_INVALID, "the path must be absolute, as in file:///folder");
        return NULL;
    }
    int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) {
        error_set(err, ERROR_NOT_FOUND, "the folder cannot be opened: %s", strerror(errno));
        return NULL;
    }
    struct file_store *f = mem_zalloc(sizeof *f);
    *f = (struct file_store){
        .folder = folder,
        .path = mem_dup(path),
        .prefix = mem_dup(setup->key_prefix),
        .expires = setup->expires,
        .text = BUF_INIT(STORE_MAX_RECORD),
    };
    return f;
}

/* --- writing ---------------------------------------------------------------------------------- */

static bool has_succeeded(const struct file_store *f, const char *name)
{
    char head[32];
    int fd = openat(f->folder, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, head, sizeof head);
    close(fd);
    return n > 0 && record_text_succeeded(head, (size_t)n);
}

static int write_whole(int fd, const char *data, size_t size)
{
    while (size) {
        ssize_t n = write(fd, data, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno;
        data += n;
        size -= (size_t)n;
    }
    return fsync(fd) < 0 ? errno : 0;
}

/* 0 or an errno. */
static int replace_file(const struct file_store *f, const char *name)
{
    char other[64];
    snprintf(other, sizeof other, TEMPORARY "%ld-%lx", (long)getpid(), (unsigned long)(uintptr_t)f);
    int fd = openat(f->folder, other, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return errno;
    int failure = write_whole(fd, f->text.data, f->text.size);
    if (close(fd) < 0 && !failure)
        failure = errno;
    if (!failure && renameat(f->folder, other, f->folder, name) < 0)
        failure = errno;
    if (failure)
        unlinkat(f->folder, other, 0);
    return failure;
}

static bool is_permanent(int failure)
{
    return failure == ENAMETOOLONG || failure == EINVAL || failure == EFBIG || failure == EISDIR ||
           failure == EILSEQ;
}

/* 0 when the entry has its code, or the transient code. */
static int write_entry(struct file_store *f, struct store_entry *e, struct error *err)
{
    struct error why;
    buf_reset(&f->text);
    if (record_print(&e->record, &f->text, &why) < 0) {
        entry_refuse(e, why.code, "%s", why.text);
        return 0;
    }
    if (strchr(e->record.id, '/')) {
        entry_refuse(e, ERROR_INVALID, "a task id with a slash cannot name a file");
        return 0;
    }
    char *name = mem_printf("%s%s", f->prefix, e->record.id);
    int failure = has_succeeded(f, name) ? 0 : replace_file(f, name);
    free(name);
    if (failure && is_permanent(failure)) {
        entry_refuse(e, ERROR_INVALID, "cannot write its file: %s", strerror(failure));
        return 0;
    }
    if (failure)
        return error_set(err, ERROR_UNAVAILABLE, "cannot write: %s", strerror(failure));
    e->code = 0;
    return 0;
}

static int write_files(void *state, struct store_thread *t, struct store_entry **entries, size_t n,
                       struct error *err)
{
    struct file_store *f = state;
    int code = 0;
    (void)t;
    flock(f->folder, LOCK_EX); /* where it fails (some network file systems) one does without */
    for (size_t i = 0; i < n && code == 0; i++)
        code = write_entry(f, entries[i], err);
    if (fsync(f->folder) < 0 && errno != EINVAL) {
        for (size_t i = 0; i < n; i++)
            if (entries[i]->code == 0)
                entries[i]->code = STORE_WAITING;
        code = error_set(err, ERROR_UNAVAILABLE, "cannot sync the folder: %s", strerror(errno));
    }
    flock(f->folder, LOCK_UN);
    if (f->text.capacity > STORE_BATCH_BYTES)
        buf_done(&f->text);
    return code;
}

/* --- reading and clearing --------------------------------------------------------------------- */

static char *read_whole(int fd, struct error *err)
{
    struct buf text = BUF_INIT(STORE_MAX_RECORD);
    ssize_t n = 1;
    while (n > 0) {
        char *at = buf_reserve(&text, 65536);
        n = at ? read(fd, at, 65536) : 0;
        if (n > 0)
            text.size += (size_t)n;
    }
    if (n < 0 || text.failed || !text.size) {
        error_set(err, n < 0 ? ERROR_SYSTEM : ERROR_INVALID, "cannot read the stored result");
        buf_done(&text);
        return NULL;
    }
    text.data[text.size] = '\0';
    return buf_take(&text);
}

static char *read_file(void *state, const char *id, struct error *err)
{
    const struct file_store *f = state;
    if (strchr(id, '/'))
        return NULL;
    char *name = mem_printf("%s%s", f->prefix, id);
    int fd = openat(f->folder, name, O_RDONLY | O_CLOEXEC);
    int failure = errno;
    free(name);
    if (fd < 0) {
        if (failure != ENOENT && failure != ENAMETOOLONG)
            error_set(err, ERROR_SYSTEM, "cannot read the stored result: %s", strerror(failure));
        return NULL;
    }
    char *text = read_whole(fd, err);
    close(fd);
    return text;
}

static void remove_if_old(const struct file_store *f, const char *name)
{
    struct stat st;
    bool ours = !strncmp(name, TEMPORARY, strlen(TEMPORARY));
    if (!ours && (f->expires <= 0 || strncmp(name, f->prefix, strlen(f->prefix)) != 0))
        return;
    double most = ours ? 3600 : f->expires;
    if (fstatat(f->folder, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) &&
        difftime(time(NULL), st.st_mtime) > most)
        unlinkat(f->folder, name, 0);
}

/* By the files' own dates, as Celery's cleanup does; the first time soon, then each hour. */
static double tidy_folder(void *state, struct store_thread *t)
{
    struct file_store *f = state;
    (void)t;
    if (!f->tidied) {
        f->tidied = true;
        return 600 * store_random();
    }
    DIR *all = opendir(f->path);
    for (struct dirent *d; all && (d = readdir(all));)
        remove_if_old(f, d->d_name);
    if (all)
        closedir(all);
    return 3600;
}

/* --- the backend ------------------------------------------------------------------------------ */

static const struct store_writer file_writer = {write_files, read_file, tidy_folder, close_folder};

static void *file_open(const struct store_setup *setup, struct error *err)
{
    struct file_store *f = open_folder(setup, err);
    if (f && faccessat(f->folder, ".", W_OK, AT_EACCESS) != 0) {
        error_set(err, ERROR_DENIED, "the folder cannot be written: %s", strerror(errno));
        close_folder(f);
        return NULL;
    }
    return f ? store_thread_open(setup, &file_writer, f, err) : NULL;
}

static char *file_read(const struct store_setup *setup, const char *id, struct error *err)
{
    struct file_store *f = open_folder(setup, err);
    char *text = f ? read_file(f, id, err) : NULL;
    if (f)
        close_folder(f);
    return text;
}

const struct store_ops store_file_ops = {file_open, store_thread_put, store_thread_get,
                                         store_thread_close, file_read,
                                         .is_down = store_thread_is_down};
