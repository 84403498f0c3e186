/* SPDX-License-Identifier: Apache-2.0 */
/* Where the revoked set outlives a worker: in Redis, for workers that start later or were away, and
 * in the file of --statedb, for those that use it. The one idea: both are read into the set and
 * never out of it alone, so it does not matter which of them is newer, or missing.
 *
 * In Redis, behind global_keyprefix: zset `cworker.revoked`, id by seconds since the epoch; zset
 * `cworker.revoked.stamps`, {"header": value} likewise. Both pruned by age and number with each
 * write. A kill -9 between the writes of a command leaves a part of it; every worker writes all of
 * it. The file is written by a thread every ten seconds at most and at the end, and replaced by a
 * rename: a kill -9 leaves the old one or the new one, whole, and so may forget the last ten
 * seconds, which Redis and the other workers still know. */

#include "worker/revoke.h"

#include "proto/base/buf.h"
#include "proto/base/mem.h"
#include "worker/log.h"
#include "worker/revoked.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_MOST = 256 << 20, IDS_PER_COMMAND = 500, SAVE_INTERVAL_US = 10000000 };

/* --- Redis ------------------------------------------------------------------------------------ */

static char *key_of(const struct worker *w, const char *name)
{
    const char *prefix = w->options->settings.global_keyprefix;
    return mem_printf("%s%s", prefix ? prefix : "", name);
}

static void prune(struct worker *w, const char *key)
{
    struct redis *redis = channel_redis(w->channel);
    double expires = (double)w->revoked->expires / 1e6, now = (double)worker_now(w) / 1e6;
    redis_sendf(redis, NULL, NULL, "ZREMRANGEBYRANK %s 0 -%lld", key,
                (long long)w->revoked->max_ids + 1);
    if (expires <= 0)
        return;
    char limit[40], life[40];
    snprintf(limit, sizeof limit, "%.6f", now - expires);
    snprintf(life, sizeof life, "%.0f", expires + 1);
    redis_sendf(redis, NULL, NULL, "ZREMRANGEBYSCORE %s -inf %s", key, limit);
    redis_sendf(redis, NULL, NULL, "EXPIRE %s %s", key, life);
}

static void on_shared(const redisReply *reply, void *arg)
{
    (void)arg;
    if (reply && reply->type == REDIS_REPLY_ERROR)
        log_error("What is revoked now is not kept for workers that start later: %s", reply->str);
}

/* One ZADD for some hundred members, all of this instant. */
static void share(struct worker *w, const char *name, const struct slice *members, size_t n)
{
    char *key = key_of(w, name), when[40];
    struct slice *argv = mem_alloc((2 + 2 * IDS_PER_COMMAND) * sizeof *argv);
    snprintf(when, sizeof when, "%.6f", (double)worker_now(w) / 1e6);
    for (size_t at = 0; at < n;) {
        int argc = 2;
        argv[0] = slice_of("ZADD");
        argv[1] = slice_of(key);
        for (; at < n && argc < 2 + 2 * IDS_PER_COMMAND; at++) {
            argv[argc++] = slice_of(when);
            argv[argc++] = members[at];
        }
        redis_send(channel_redis(w->channel), on_shared, NULL, argc, argv);
    }
    prune(w, key);
    free(argv);
    free(key);
}

void revoked_share_ids(struct worker *w, const char *const *ids, size_t n)
{
    struct slice *members = mem_alloc((n + 1) * sizeof *members);
    for (size_t i = 0; i < n; i++)
        members[i] = slice_of(ids[i]);
    share(w, "cworker.revoked", members, n);
    free(members);
}

static char *stamp_text(const char *header, const cJSON *value)
{
    cJSON *pair = cJSON_CreateObject();
    json_set(pair, header, cJSON_Duplicate(value, true));
    char *text = json_text(pair);
    cJSON_Delete(pair);
    return text;
}

static void share_values(struct worker *w, const cJSON *header)
{
    size_t n = 0, most = cJSON_IsArray(header) ? (size_t)cJSON_GetArraySize(header) : 1;
    struct slice *members = mem_alloc((most + 1) * sizeof *members);
    for (const cJSON *v = cJSON_IsArray(header) ? header->child : header; v && n < most; v = v->next)
        members[n++] = slice_of(stamp_text(header->string, v));
    share(w, "cworker.revoked.stamps", members, n);
    while (n)
        free((char *)members[--n].at);
    free(members);
}

void revoked_share_stamps(struct worker *w, const cJSON *headers)
{
    for (const cJSON *h = cJSON_IsObject(headers) ? headers->child : NULL; h; h = h->next)
        share_values(w, h);
}

void revoked_forget_stamps(struct worker *w)
{
    char *key = key_of(w, "cworker.revoked.stamps");
    redis_sendf(channel_redis(w->channel), NULL, NULL, "DEL %s", key);
    free(key);
    revoked_clear_stamps(w->revoked);
}

/* Asked at each connection, so it is said no more often. */
static bool is_readable(const redisReply *reply, const char *key)
{
    if (reply && reply->type == REDIS_REPLY_ERROR)
        log_error("What the fleet has revoked is not known here, %s cannot be read: %s", key,
                  reply->str);
    return reply && reply->type == REDIS_REPLY_ARRAY;
}

/* A score that is no instant of the past, as one in milliseconds, must not keep its id for ever. */
static int64_t instant_of(const char *score, int64_t now)
{
    double us = strtod(score, NULL) * 1e6;
    return us > 0 && us < (double)now ? (int64_t)us : now;
}

static void on_ids(const redisReply *reply, void *arg)
{
    struct worker *w = arg;
    if (!is_readable(reply, "cworker.revoked"))
        return;
    for (size_t i = 0; i + 1 < reply->elements; i += 2)
        if (reply->element[i]->str && reply->element[i + 1]->str)
            revoked_add(w->revoked, reply->element[i]->str,
                        instant_of(reply->element[i + 1]->str, worker_now(w)));
    flow_discard_revoked(w);
}

static void on_stamps(const redisReply *reply, void *arg)
{
    struct worker *w = arg;
    if (!is_readable(reply, "cworker.revoked.stamps"))
        return;
    for (size_t i = 0; i < reply->elements; i++) {
        const redisReply *e = reply->element[i];
        cJSON *pair = e->str ? json_parse(e->str, e->len, NULL) : NULL;
        if (cJSON_IsObject(pair) && pair->child)
            revoked_add_stamps(w->revoked, pair->child->string, pair->child);
        cJSON_Delete(pair);
    }
    flow_discard_revoked(w);
}

/* Asked before the first message is: on one connection the answers come in that order. */
void revoked_read_fleet(struct worker *w)
{
    struct redis *redis = channel_redis(w->channel);
    char *ids = key_of(w, "cworker.revoked"), *stamps = key_of(w, "cworker.revoked.stamps");
    char since[40] = "-inf";
    if (w->revoked->expires > 0)
        snprintf(since, sizeof since, "%.6f", (double)(worker_now(w) - w->revoked->expires) / 1e6);
    redis_sendf(redis, on_ids, w, "ZRANGEBYSCORE %s %s +inf WITHSCORES", ids, since);
    redis_sendf(redis, on_stamps, w, "ZRANGEBYSCORE %s %s +inf", stamps, since);
    free(ids);
    free(stamps);
}

/* --- the file --------------------------------------------------------------------------------- */

static bool is_regular(int fd)
{
    struct stat at;
    return fstat(fd, &at) == 0 && S_ISREG(at.st_mode);
}

/* The text of the file; NULL with code 0: there is none yet. */
static char *file_read(const char *path, size_t *ret_size, struct error *err)
{
    struct buf text = BUF_INIT(FILE_MOST);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 && errno == ENOENT)
        return NULL;
    if (fd >= 0 && !is_regular(fd)) { /* a rename would put a file in the place of /dev/null */
        close(fd);
        error_set(err, ERROR_INVALID, "statedb %s: this is no regular file", path);
        return NULL;
    }
    ssize_t n = fd < 0 ? -1 : 1;
    while (n > 0) {
        char *at = buf_reserve(&text, 1 << 16);
        n = at ? read(fd, at, 1 << 16) : (errno = EFBIG, -1);
        text.size += n > 0 ? (size_t)n : 0;
    }
    if (n < 0)
        error_set(err, ERROR_SYSTEM, "statedb %s: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    if (err->code) {
        buf_done(&text);
        return NULL;
    }
    *ret_size = text.size;
    return buf_take(&text);
}

static int load(struct worker *w, const char *path, struct error *err)
{
    size_t size = 0;
    char *text = file_read(path, &size, err);
    if (!text)
        return err->code;
    struct error why = {0};
    cJSON *state = size ? json_parse(text, size, &why) : cJSON_CreateObject();
    int64_t version = 1;
    bool ours = cJSON_IsObject(state) &&
                (!size || json_as_int(json_get(state, "cworker_statedb"), &version));
    free(text);
    if (!ours || version != 1) {
        cJSON_Delete(state);
        return error_set(
            err, ERROR_INVALID,
            ours ? "statedb %s: written by a later cworker"
                 : "statedb %s: this is no state file of cworker (Celery's own, a Python "
                   "shelve, cannot be read): name another file or remove it",
            path);
    }
    revoked_add_ids(w->revoked, json_get(state, "revoked"), worker_now(w));
    const cJSON *stamps = json_get(state, "stamps");
    for (const cJSON *h = cJSON_IsObject(stamps) ? stamps->child : NULL; h; h = h->next)
        revoked_add_stamps(w->revoked, h->string, h);
    revoked_purge(w->revoked, worker_now(w));
    w->revoked->changed = false;
    cJSON_Delete(state);
    return 0;
}

static char *state_text(struct worker *w)
{
    cJSON *state = cJSON_CreateObject();
    json_set(state, "cworker_statedb", json_int(1));
    json_set(state, "revoked", revoked_ids(w->revoked));
    json_set(state, "stamps", revoked_stamps(w->revoked));
    char *text = json_text(state);
    cJSON_Delete(state);
    return text;
}

static int file_replace(const char *path, const char *text)
{
    char *name = mem_printf("%s.%d.tmp", path, (int)getpid());
    size_t size = strlen(text), at = 0;
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    ssize_t n = fd < 0 ? -1 : 0;
    while (n >= 0 && at < size)
        if ((n = write(fd, text + at, size - at)) > 0)
            at += (size_t)n;
    int code = n < 0 || fsync(fd) < 0 || rename(name, path) < 0 ? -errno : 0;
    if (fd >= 0)
        close(fd);
    if (code < 0 && fd >= 0)
        unlink(name);
    free(name);
    return code;
}

/* One writing of the file, which may wait for a disk. */
struct revoked_saving {
    pthread_t thread;
    const char *path;
    char *text;
    int code;
    atomic_bool done;
};

static void *save(void *arg)
{
    struct revoked_saving *saving = arg;
    saving->code = file_replace(saving->path, saving->text);
    atomic_store(&saving->done, true);
    return NULL;
}

static void saved(struct worker *w)
{
    struct revoked_saving *saving = w->revoked_saving;
    w->revoked_saving = NULL;
    pthread_join(saving->thread, NULL);
    if (saving->code < 0) {
        log_error("statedb %s cannot be written: %s", saving->path, strerror(-saving->code));
        w->revoked->changed = true;
    }
    free(saving->text);
    free(saving);
}

static void save_start(struct worker *w, const char *path)
{
    struct revoked_saving *saving = mem_zalloc(sizeof *saving);
    revoked_purge(w->revoked, worker_now(w));
    saving->path = path;
    saving->text = state_text(w);
    w->revoked->changed = false;
    w->revoked_saved_at = monotonic_now();
    w->revoked_saving = saving;
    if (pthread_create(&saving->thread, NULL, save, saving) == 0)
        return;
    log_error("statedb %s: no thread to write it", path);
    free(saving->text);
    free(saving);
    w->revoked_saving = NULL;
    w->revoked->changed = true;
}

void revoked_save(struct worker *w, bool now)
{
    const char *path = w->options->settings.worker_state_db;
    if (w->revoked_saving && (now || atomic_load(&w->revoked_saving->done)))
        saved(w);
    if (!path || !*path || !w->revoked->changed || w->revoked_saving)
        return;
    if (!now && monotonic_now() - w->revoked_saved_at < SAVE_INTERVAL_US)
        return;
    save_start(w, path);
    if (now && w->revoked_saving)
        saved(w);
}

int revoked_load(struct worker *w, struct error *err)
{
    const char *path = w->options->settings.worker_state_db;
    if (!path || !*path)
        return 0;
    if (load(w, path, err) < 0)
        return err->code;
    /* Better known now than at the end of a worker's life. */
    char *text = state_text(w);
    int code = file_replace(path, text);
    free(text);
    return code < 0 ? error_set(err, ERROR_SYSTEM, "statedb %s: %s", path, strerror(-code)) : 0;
}
