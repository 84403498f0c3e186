/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/command/redis.h"

#include "broker/scripts.h"
#include "proto/base/mem.h"
#include "proto/message.h"
#include "worker/command/command.h"
#include "worker/command/progress.h"
#include "worker/recovery.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Gives a fleet back to Kombu: what cworkers held or delayed goes to the queues that every Celery
 * worker reads, in Kombu's own form. The one idea: this is a rescue of everybody at once, by the
 * scripts with which workers rescue each other, so it may be ended at any moment and run again.
 *
 * A kill -9 leaves each message either where it was or in its queue. What delayed tasks wait for
 * stands in their own headers, so a Celery worker waits on for it. */

enum { PAGE = 100, RANDOM_DIGITS = 16 };

/* KEYS delayed set, hash, revoked set, queue key of each step. ARGV most to take, then the number
 * of each step. Answers how many were taken and how many of them went back, behind what waits: they
 * are not due. Those of a later format stay. What was revoked ends here: no Celery worker knows,
 * and REVOKED is stored. */
static struct redis_script undelay_script = {
    .body = "local n, back = 0, 0\n"
            "for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, 2 * ARGV[1])) do\n"
            "  if n == tonumber(ARGV[1]) then break end\n"
            "  local value = redis.call('HGET', KEYS[2], id)\n"
            "  local step, from\n"
            "  if value then step, from = string.match(value, '^1 (%d+) ()') end\n"
            "  if from then\n"
            "    local key = KEYS[4]\n"
            "    for s = 2, #ARGV do if ARGV[s] == step then key = KEYS[s + 2] end end\n"
            "    n = n + 1\n"
            "    if not redis.call('ZSCORE', KEYS[3], string.match(id, '^(.*)/') or id) then\n"
            "      redis.call('LPUSH', key, string.sub(value, from))\n"
            "      back = back + 1\n"
            "    end\n"
            "  end\n"
            "  if from or not value then\n"
            "    redis.call('ZREM', KEYS[1], id)\n"
            "    redis.call('HDEL', KEYS[2], id)\n"
            "  end\n"
            "end\n"
            "return n * 1000 + back"};

struct recovery {
    struct options *o;
    struct command_redis redis;
    const char *prefix;
    struct progress progress;
    cJSON *registry; /* incarnation → its registration */
    struct slice *words; /* of the next give-back: entry, what to put back, … */
    int n_words, n_next; /* entries to be read at once */
    int64_t n_inflight, n_settled, n_delayed, n_outbox;
};

/* --- who lives --- */

static void registry_read(const redisReply *reply, void *arg)
{
    struct recovery *r = arg;
    for (size_t i = 0; reply->type == REDIS_REPLY_ARRAY && i + 1 < reply->elements; i += 2) {
        const redisReply *id = reply->element[i], *text = reply->element[i + 1];
        cJSON *about = json_parse(text->str, text->len, NULL);
        json_set(r->registry, id->str, about ? about : cJSON_CreateNull());
    }
}

static char *lease_key(const struct recovery *r, const char *incarnation)
{
    return mem_printf("%scworker.lease.%s", r->prefix, incarnation);
}

/* With --force the lease is ended: its worker notices, and stops what it no longer holds. */
static int lease_look(struct recovery *r, const char *incarnation, int *n_alive)
{
    bool force = command_flag(r->o, "force");
    char *key = lease_key(r, incarnation);
    int64_t found = 0;
    int status = command_redis_ask(
        &r->redis, &found, 2, (struct slice[]){slice_of(force ? "DEL" : "EXISTS"), slice_of(key)});
    if (found && !force) {
        if ((*n_alive)++ == 0)
            fprintf(stderr,
                    "cworker recover: these workers live; stop them first, or say --force:\n");
        const char *node = json_get_string(json_get(r->registry, incarnation), "node");
        fprintf(stderr, "  %s\n", node ? node : incarnation);
    }
    free(key);
    return status;
}

static int leases_look(struct recovery *r)
{
    char *key = mem_printf("%scworker.incarnations", r->prefix), **leases = NULL;
    int n_alive = 0;
    int status = command_redis_read(&r->redis, registry_read, r, 2,
                                    (struct slice[]){slice_of("HGETALL"), slice_of(key)});
    if (status == 0)
        status = command_redis_keys(&r->redis, &r->o->settings, "cworker.lease.*", &leases);
    for (char **at = leases; status == 0 && at && *at; at++)
        status = lease_look(r, *at + strlen("cworker.lease."), &n_alive);
    command_keys_free(leases);
    free(key);
    return status ? status : n_alive ? 1 : 0;
}

/* --- in flight --- */

static void words_free(struct recovery *r)
{
    for (int i = 0; i < r->n_words; i++)
        free((char *)r->words[i].at);
    free(r->words);
    r->words = NULL;
    r->n_words = 0;
}

static void entries_read(const redisReply *reply, void *arg)
{
    struct recovery *r = arg;
    size_t n = reply->type == REDIS_REPLY_ARRAY ? reply->elements : 0;
    r->words = mem_zalloc((3 + 2 * n) * sizeof *r->words);
    r->n_words = 3;
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++) {
        const redisReply *entry = reply->element[i];
        bytes += entry->len;
        char *marked = message_encode_redelivered(entry->str, entry->len);
        size_t size = marked ? strlen(marked) : entry->len;
        r->words[r->n_words++] = (struct slice){mem_ndup(entry->str, entry->len), entry->len};
        r->words[r->n_words++] =
            (struct slice){marked ? marked : mem_ndup(entry->str, entry->len), size};
    }
    r->n_next = script_give_back_most(bytes, n);
}

static int list_give_back(struct recovery *r, const char *list, const char *queue,
                          const char *lease)
{
    int status;
    int64_t n = 0;
    r->n_next = 1;
    do {
        char last[16];
        snprintf(last, sizeof last, "%d", r->n_next - 1);
        status = command_redis_read(&r->redis, entries_read, r, 4,
                                    (struct slice[]){slice_of("LRANGE"), slice_of(list),
                                                     slice_of("0"), slice_of(last)});
        n = 0;
        if (status == 0 && r->n_words > 3) {
            const char *const keys[] = {list, queue, lease};
            for (int i = 0; i < 3; i++)
                r->words[i] = slice_of(mem_dup(keys[i]));
            status = command_redis_ask_script(&r->redis, &n, &script_give_back, 3, r->n_words,
                                              r->words);
        }
        words_free(r);
        if (n < 0) {
            fprintf(stderr, "cworker recover: a worker has come back meanwhile: %s\n", list);
            return 1;
        }
        r->n_inflight += n;
        progress_add(&r->progress, n);
    } while (status == 0 && n > 0);
    return status;
}

/* `{queue}.cworker.inflight.INCARNATION[.step]`; an incarnation ends in 16 digits of
 * hexadecimal. */
static bool list_parse(const struct recovery *r, const char *name, struct adoption *ret)
{
    static const char infix[] = "}.cworker.inflight.";
    const char *at = strstr(name, infix), *dot = strrchr(name, '.');
    if (*name != '{' || !at || !dot)
        return false;
    bool stepped = strlen(dot + 1) < RANDOM_DIGITS;
    const char *id = at + strlen(infix);
    char *incarnation = mem_ndup(id, stepped && dot > id ? (size_t)(dot - id) : strlen(id));
    *ret = (struct adoption){.list = mem_printf("%s%s", r->prefix, name),
                             .lease = lease_key(r, incarnation),
                             .queue = mem_ndup(name + 1, (size_t)(at - name - 1)),
                             .step = stepped ? (int)strtol(dot + 1, NULL, 10) : 0};
    free(incarnation);
    return true;
}

static void list_free(struct adoption *list)
{
    free((char *)list->list);
    free((char *)list->lease);
    free((char *)list->queue);
    free((char *)list->record);
}

static int inflight_give_back(struct recovery *r, const char *name)
{
    struct adoption list;
    if (!list_parse(r, name, &list))
        return 0;
    char *queue = list.step ? mem_printf("%s%s\x06\x16%d", r->prefix, list.queue, list.step)
                            : mem_printf("%s%s", r->prefix, list.queue);
    int status = list_give_back(r, list.list, queue, list.lease);
    list_free(&list);
    free(queue);
    return status;
}

/* All that have to go back, of keys of one kind, which `command` counts. */
static int count_all(struct recovery *r, char **names, const char *command)
{
    int status = 0;
    int64_t n;
    for (char **at = names; status == 0 && *at; at++) {
        char *key = mem_printf("%s%s", r->prefix, *at);
        status =
            command_redis_ask(&r->redis, &n, 2, (struct slice[]){slice_of(command), slice_of(key)});
        r->progress.total += n;
        free(key);
    }
    return status;
}

static int all_inflight(struct recovery *r)
{
    char **lists;
    int status =
        command_redis_keys(&r->redis, &r->o->settings, "{*}.cworker.inflight.*", &lists);
    if (status == 0)
        status = count_all(r, lists, "LLEN");
    for (char **at = lists; status == 0 && *at; at++)
        status = inflight_give_back(r, *at);
    command_keys_free(lists);
    return status;
}

/* --- what has ended already --- */

struct settling {
    struct recovery *r;
    struct adoption *lists;
    size_t n;
    const char *queue; /* of the outbox that is being read */
};

static struct adoption *settling_add(struct settling *s)
{
    s->lists = mem_realloc(s->lists, (s->n + 1) * sizeof *s->lists);
    return &s->lists[s->n++];
}

/* A record whose message a worker has given back already: it waits in its queue. */
static void outbox_read(const redisReply *reply, void *arg)
{
    struct settling *s = arg;
    char **steps = s->r->o->settings.priority_steps;
    for (size_t i = 0; reply->type == REDIS_REPLY_ARRAY && i < reply->elements; i++) {
        const char *tag = strrchr(reply->element[i]->str, '/');
        for (int step = 0; tag && tag[1] && steps && steps[step]; step++)
            *settling_add(s) = (struct adoption){
                .list = command_queue_key(&s->r->o->settings, s->queue, step),
                .lease = lease_key(s->r, "nobody"),
                .queue = mem_dup(s->queue),
                .step = (int)strtol(steps[step], NULL, 10),
                .record = mem_dup(reply->element[i]->str),
            };
    }
}

static int outboxes_look(struct settling *s)
{
    struct recovery *r = s->r;
    char **outboxes;
    int status = command_redis_keys(&r->redis, &r->o->settings, "{*}.cworker.outbox", &outboxes);
    for (char **at = outboxes; status == 0 && *at; at++) {
        char *key = mem_printf("%s%s", r->prefix, *at);
        char *queue = mem_ndup(*at + 1, strlen(*at) - strlen("{}.cworker.outbox"));
        s->queue = queue;
        status = command_redis_read(&r->redis, outbox_read, s, 2,
                                    (struct slice[]){slice_of("HKEYS"), slice_of(key)});
        free(queue);
        free(key);
    }
    command_keys_free(outboxes);
    return status;
}

/* Before anything goes back: a Celery worker would run again what has ended. */
static int settle_ended(struct recovery *r)
{
    struct settling s = {.r = r};
    struct recovery_count count = {0};
    char **names;
    int status = command_redis_keys(&r->redis, &r->o->settings, "{*}.cworker.inflight.*", &names);
    for (char **at = names; status == 0 && *at; at++) {
        struct adoption list;
        if (list_parse(r, *at, &list))
            *settling_add(&s) = list;
    }
    if (status == 0)
        status = outboxes_look(&s);
    if (status == 0 && s.n)
        status = recovery_settle(r->o, s.lists, s.n, &count);
    r->n_settled += (int64_t)count.settled;
    r->n_inflight += (int64_t)count.given_back;
    for (size_t i = 0; i < s.n; i++)
        list_free(&s.lists[i]);
    free(s.lists);
    command_keys_free(names);
    return status;
}

/* --- delayed, and what belongs to nobody then --- */

static int queue_undelay(struct recovery *r, const char *queue)
{
    const struct settings *s = &r->o->settings;
    int n_steps = 0, n = 0, status;
    while (s->priority_steps && s->priority_steps[n_steps])
        n_steps++;
    char **words = mem_zalloc((size_t)(2 * n_steps + 5) * sizeof *words);
    struct slice *argv = mem_alloc((size_t)(2 * n_steps + 5) * sizeof *argv);
    words[n++] = mem_printf("%s{%s}.cworker.delayed", r->prefix, queue);
    words[n++] = mem_printf("%s{%s}.cworker.delayed.msg", r->prefix, queue);
    words[n++] = mem_printf("%scworker.revoked", r->prefix);
    for (int step = 0; step < n_steps; step++)
        words[n++] = command_queue_key(s, queue, step);
    int n_keys = n;
    words[n++] = mem_printf("%d", PAGE);
    for (int step = 0; step < n_steps; step++)
        words[n++] = mem_dup(s->priority_steps[step]);
    for (int i = 0; i < n; i++)
        argv[i] = slice_of(words[i]);
    int64_t moved;
    do {
        status = command_redis_ask_script(&r->redis, &moved, &undelay_script, n_keys, n, argv);
        r->n_delayed += moved % 1000;
        progress_add(&r->progress, moved / 1000);
    } while (status == 0 && moved > 0);
    command_keys_free(words);
    free(argv);
    return status;
}

static int all_delayed(struct recovery *r)
{
    char **sets;
    int status = command_redis_keys(&r->redis, &r->o->settings, "{*}.cworker.delayed", &sets);
    if (status == 0)
        status = count_all(r, sets, "ZCARD");
    for (char **at = sets; status == 0 && *at; at++) {
        char *queue = mem_ndup(*at + 1, strlen(*at) - strlen("{}.cworker.delayed"));
        status = queue_undelay(r, queue);
        free(queue);
    }
    command_keys_free(sets);
    return status;
}

static int key_remove(struct recovery *r, const char *name)
{
    int64_t n;
    char *key = mem_printf("%s%s", r->prefix, name);
    int status =
        command_redis_ask(&r->redis, &n, 2, (struct slice[]){slice_of("DEL"), slice_of(key)});
    free(key);
    return status;
}

static int keys_remove(struct recovery *r, const char *pattern)
{
    char **keys;
    int status = command_redis_keys(&r->redis, &r->o->settings, pattern, &keys);
    for (char **at = keys; status == 0 && *at; at++)
        status = key_remove(r, *at);
    command_keys_free(keys);
    return status;
}

/* A record that is left is of a task that runs again: it has no result, or none was asked for. */
static int outboxes_remove(struct recovery *r)
{
    char **outboxes;
    int status = command_redis_keys(&r->redis, &r->o->settings, "{*}.cworker.outbox", &outboxes);
    for (char **at = outboxes; status == 0 && *at; at++) {
        char *key = mem_printf("%s%s", r->prefix, *at);
        int64_t n = 0;
        status =
            command_redis_ask(&r->redis, &n, 2, (struct slice[]){slice_of("HLEN"), slice_of(key)});
        r->n_outbox += n;
        free(key);
        if (status == 0)
            status = key_remove(r, *at);
    }
    command_keys_free(outboxes);
    return status;
}

/* Registrations, pauses, leases of unique work, limits, counts and the revoked set mean nothing to
 * Celery's workers. */
static int rest_remove(struct recovery *r)
{
    static const char *const patterns[] = {
        "cworker.incarnations", "cworker.paused",   "cworker.unique.*", "cworker.limit.*",
        "cworker.revoked*",     "cworker.hasten.*", "cworker.chord.*"};
    int status = outboxes_remove(r);
    for (size_t i = 0; status == 0 && i < sizeof patterns / sizeof *patterns; i++)
        status = keys_remove(r, patterns[i]);
    return status;
}

static void report(const struct recovery *r)
{
    if (command_flag(r->o, "json")) {
        printf("{\"inflight\": %lld, \"delayed\": %lld, \"settled\": %lld, \"outbox\": %lld}\n",
               (long long)r->n_inflight, (long long)r->n_delayed, (long long)r->n_settled,
               (long long)r->n_outbox);
        return;
    }
    printf("Gave back %lld message%s in flight and %lld delayed.\n", (long long)r->n_inflight,
           r->n_inflight == 1 ? "" : "s", (long long)r->n_delayed);
    if (r->n_settled)
        printf("%lld more had ended: what they caused is published.\n", (long long)r->n_settled);
    if (r->n_outbox)
        printf("%lld of them had begun before: they run again.\n",
               (long long)r->n_outbox);
}

int command_recover(struct options *o)
{
    if (command_word(o, 0))
        return command_usage(o, "unexpected argument \"%.60s\"", command_word(o, 0));
    const char *prefix = o->settings.global_keyprefix;
    struct recovery r = {.o = o, .prefix = prefix ? prefix : "", .registry = cJSON_CreateObject()};
    int status = command_redis_open(&r.redis, o);
    if (status == 0)
        status = leases_look(&r);
    if (status == 0)
        status = settle_ended(&r);
    progress_begin(&r.progress, o, "Giving back", 0);
    if (status == 0)
        status = all_inflight(&r);
    if (status == 0)
        status = all_delayed(&r);
    progress_end(&r.progress);
    if (status == 0)
        status = rest_remove(&r);
    if (status == 0)
        report(&r);
    command_redis_close(&r.redis);
    cJSON_Delete(r.registry);
    return status;
}
