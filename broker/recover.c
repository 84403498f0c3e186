/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/channel_private.h"

#include "proto/base/mem.h"

#include <stdlib.h>
#include <string.h>

/* What happens on a connection before anything else: the old connection is killed, the lease is
 * taken, and the in-flight lists are compared with what is held. The one idea: while the lease
 * exists no rescuer's script touches our lists, so the lease comes first and the comparison is
 * final. All that follows is on one connection in order: at the moment of an answer, a list holds
 * exactly what is held or is being settled.
 *
 * A kill -9 before the lease script leaves nothing new. After it, lease and registration exist: the
 * lease lapses, a rescuer finds the lists and returns what is in them, then removes the
 * registration. */

/* --- the comparison --- */

struct known {
    struct slice text;
    struct delivery *delivery; /* NULL: a settlement without an answer */
    bool matched;
};

static int text_order(struct slice a, struct slice b)
{
    if (a.size != b.size)
        return a.size < b.size ? -1 : 1;
    return a.size ? memcmp(a.at, b.at, a.size) : 0;
}

static int known_order(const void *left, const void *right)
{
    const struct known *a = left, *b = right;
    int order = text_order(a->text, b->text);
    return order ? order : (a->delivery == NULL) - (b->delivery == NULL);
}

static struct known *known_list(struct lane *lane, size_t *ret_n)
{
    size_t n = 0;
    struct known *list = mem_alloc((lane->n_held + lane->n_settling) * sizeof *list);
    for (struct delivery *d = lane->held; d; d = d->next)
        list[n++] = (struct known){.text = d->text, .delivery = d};
    for (struct settlement *s = lane->n_settling ? lane->c->settling : NULL; s; s = s->next)
        if (s->lane == lane && !s->lost)
            list[n++] = (struct known){.text = s->text};
    qsort(list, n, sizeof *list, known_order);
    *ret_n = n;
    return list;
}

static bool known_match(struct known *list, size_t n, struct slice text)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (text_order(list[middle].text, text) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    while (low < n && list[low].matched && text_order(list[low].text, text) == 0)
        low++;
    if (low == n || text_order(list[low].text, text) != 0)
        return false;
    list[low].matched = true;
    return true;
}

static void lost_tell(struct channel *c, struct known *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (list[i].delivery && !list[i].matched)
            delivery_unlink(list[i].delivery);
    for (size_t i = 0; i < n; i++)
        if (list[i].delivery && !list[i].matched && c->handlers.on_lost)
            c->handlers.on_lost(list[i].delivery, c->handlers.arg);
}

static void lane_compare(struct lane *lane, const redisReply *entries)
{
    size_t n;
    struct known *list = known_list(lane, &n);
    bool *fresh = mem_zalloc(entries->elements + 1);
    for (size_t i = 0; i < entries->elements; i++) {
        const redisReply *entry = entries->element[i];
        fresh[i] = !known_match(list, n, (struct slice){entry->str, entry->len});
    }
    lost_tell(lane->c, list, n);
    free(list);
    for (size_t i = entries->elements; i-- > 0;)
        if (fresh[i])
            fetch_arrived(lane, entries->element[i]->str, entries->element[i]->len);
    free(fresh);
}

static void recover_done(struct channel *c)
{
    c->recovering = false;
    c->ready = c->ever_ready = true;
    lease_confirmed(c);
    c->last_client_id = redis_client_id(c->redis);
    settle_resend(c);
    if (c->handlers.on_up)
        c->handlers.on_up(c->handlers.arg);
    queues_register(c);
    watch_arm(c);
    fetch_ask_all(c);
    timer_arm(c->poll_timer, 0.05);
    delayed_look(-1, 0, c);
    hasten_go_on(c);
    rescue_look(c);
    restore_look(-1, 0, c);
}

/* Starts over a little later; the connection itself is fine. */
static void recover_failed(struct channel *c, const char *what, const redisReply *reply)
{
    if (!reply)
        return;
    note_error(c, what, reply);
    c->recovering = false;
    timer_arm(c->retry_timer, 1);
}

static void lane_answered(const redisReply *reply, void *arg)
{
    struct lane *lane = arg;
    struct channel *c = lane->c;
    if (!c->recovering)
        return;
    if (!reply || reply->type != REDIS_REPLY_ARRAY) {
        recover_failed(c, "reading the in-flight list", reply);
        return;
    }
    lane_compare(lane, reply);
    if (--c->n_comparing == 0)
        recover_done(c);
}

/* --- lease and old connection --- */

static void lease_lapsed(struct channel *c)
{
    note(c, true, "the lease had lapsed: what is no longer in the in-flight lists runs elsewhere");
    for (struct settlement *s = c->settling; s; s = s->next)
        s->unheard = false;
}

static void lease_taken(const redisReply *reply, void *arg)
{
    struct channel *c = arg;
    if (!reply || reply->type != REDIS_REPLY_INTEGER) {
        recover_failed(c, "taking the lease and registering in cworker.incarnations", reply);
        return;
    }
    if (reply->integer == 0 && c->ever_ready)
        lease_lapsed(c);
    pause_ask(c); /* answered before the lists are, and so before the first fetch */
    for (int i = 0; i < c->n_queues; i++) {
        c->queues[i]->registered |= i < c->n_describing;
        if (c->queues[i]->consumed)
            queue_declare(c, c->queues[i]);
        queue_update(c, c->queues[i]);
    }
    c->n_comparing = c->n_queues * c->n_steps;
    for (struct lane *lane = lane_first(c); lane; lane = lane_after(lane))
        redis_send(c->redis, lane_answered, lane, 4,
                   (struct slice[]){slice_of("LRANGE"), lane->inflight, slice_of("0"),
                                    slice_of("-1")});
}

static void lease_take(struct channel *c)
{
    char ms[24];
    snprintf(ms, sizeof ms, "%.0f", c->lease * 1000);
    c->lease_asked = time_boot();
    c->n_describing = c->n_queues;
    lease_describe(c);
    redis_run(c->redis, &script_lease_take, lease_taken, c, 2, 5,
              (struct slice[]){slice_of(c->lease_key), slice_of(c->registry_key),
                               slice_of(c->incarnation), slice_of(ms), slice_of(c->description)});
}

static bool info_field(const char *info, const char *name, char *out, size_t size)
{
    const char *at = strstr(info, name);
    if (!at)
        return false;
    at += strlen(name);
    snprintf(out, size, "%.*s", (int)strcspn(at, "\r\n"), at);
    return true;
}

static const char *config_value(const redisReply *reply)
{
    bool told = reply && reply->type == REDIS_REPLY_ARRAY && reply->elements == 2;
    return told && reply->element[1]->str ? reply->element[1]->str : NULL;
}

/* Who may not ask for the configuration is told what may be. */
static void save_read(const redisReply *reply, void *arg)
{
    struct channel *c = arg;
    const char *save = config_value(reply);
    if (!reply)
        return;
    if (save && !*save)
        note(c, true, "Redis keeps nothing on disk: its crash or restart loses all tasks");
    else
        note(c, true,
             "Redis runs without append-only file: a crash of it loses what came since its last "
             "snapshot%s%.60s%s: "
             "tasks sent are gone, tasks acked run again",
             save ? " (save " : "", save ? save : "", save ? ")" : "");
}

static void sync_read(const redisReply *reply, void *arg)
{
    const char *sync = config_value(reply);
    if (sync && strcmp(sync, "always") != 0)
        note(arg, false,
             "Redis syncs its append-only file %s: a crash of its host may lose the last %s",
             strcmp(sync, "everysec") == 0 ? "every second" : "when the system likes",
             strcmp(sync, "everysec") == 0 ? "second" : "minute");
}

static void durability_warn(struct channel *c, const char *info)
{
    char value[64];
    if (c->warned || c->passive)
        return;
    c->warned = true;
    bool bounded = info_field(info, "\nmaxmemory:", value, sizeof value) && strcmp(value, "0") != 0;
    if (bounded && info_field(info, "\nmaxmemory_policy:", value, sizeof value) &&
        strcmp(value, "noeviction") != 0)
        note(c, true, "Redis may evict queues: maxmemory-policy is %s, not noeviction", value);
    if (!info_field(info, "\naof_enabled:", value, sizeof value))
        return;
    bool aof = strcmp(value, "0") != 0;
    redis_sendf(c->redis, aof ? sync_read : save_read, c,
                aof ? "CONFIG GET appendfsync" : "CONFIG GET save");
}

/* Client ids start again with each run of the server: another run's id may be somebody else's. */
static void info_read(const redisReply *reply, void *arg)
{
    struct channel *c = arg;
    if (!reply)
        return;
    char run_id[sizeof c->run_id] = "";
    if (reply->type == REDIS_REPLY_STRING) {
        info_field(reply->str, "\nrun_id:", run_id, sizeof run_id);
        durability_warn(c, reply->str);
    }
    bool same_run = *run_id && strcmp(run_id, c->run_id) == 0;
    memcpy(c->run_id, run_id, sizeof run_id);
    if (same_run && c->last_client_id && c->last_client_id != redis_client_id(c->redis))
        redis_sendf(c->redis, NULL, NULL, "CLIENT KILL ID %lld", (long long)c->last_client_id);
    lease_take(c);
}

void recover_start(struct channel *c)
{
    if (c->recovering || !redis_is_up(c->redis))
        return;
    c->ready = false;
    c->recovering = true;
    c->era++;
    redis_sendf(c->redis, info_read, c, "INFO");
}
