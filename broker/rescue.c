/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/channel_private.h"

#include "proto/base/mem.h"
#include "proto/message.h"

#include <stdlib.h>
#include <string.h>

/* Giving back what dead workers held. The one idea: a lease that is missing proves nothing by
 * itself: Redis may have been away or frozen, or may have evicted it. It has lapsed when this
 * worker saw it alive, has had prompt answers ever since on one connection to one run of Redis, and
 * finds it missing after its time (Redis was there, and its owner did not renew it); else when it
 * was watched be missing for its whole length. On the same host the pid's end is proof enough.
 *
 * Each step is one script that looks at the lease first. A kill -9 before one leaves its entries in
 * the dead worker's list, where the next rescuer finds them; after it they are back in their queue.
 * The registration goes last, and only when no list is left. */

static const int64_t GRACE = 1000000, LOOK_AT_PIDS = 1000000;
/* Of another worker's lease, whatever its registration says. */
static const int64_t LEASE_LEAST_MS = 100, LEASE_MOST_MS = INT64_C(365) * 86400000;

/* Another worker, as far as this one has seen it. Instants are boot-time µs, 0: none. */
struct peer {
    struct peer *next;
    char *id;
    int64_t alive_at, alive_until; /* when its lease was last seen, and when that ends */
    int64_t missing_since;
    int64_t pid, start; /* of its process, when that is on our host */
    bool listed;
};

/* One dead worker that is being cleared. */
struct rescue {
    struct rescue *next;
    struct channel *c;
    char *id, *lease_key;
    cJSON *about;      /* its registration */
    const cJSON *list; /* that is being emptied, of those in it; NULL: all are */
    int n_next;        /* entries to be read at once: one, until it is known how large they are */
    size_t n_moved;
    unsigned era;
    struct argument_list entries;
};

/* One registration that is being looked at. */
struct look {
    struct channel *c;
    char *id;
    cJSON *about;
    bool gone; /* its process provably is */
    int64_t asked;
    unsigned era;
};

/* --- peers --- */

static void peer_drop(struct channel *c, const char *id)
{
    for (struct peer **at = &c->peers; *at; at = &(*at)->next)
        if (strcmp((*at)->id, id) == 0) {
            struct peer *p = *at;
            *at = p->next;
            free(p->id);
            free(p);
            return;
        }
}

static struct peer *peer_get(struct channel *c, const char *id)
{
    for (struct peer *p = c->peers; p; p = p->next)
        if (strcmp(p->id, id) == 0)
            return p;
    struct peer *p = mem_zalloc(sizeof *p);
    p->id = mem_dup(id);
    p->next = c->peers;
    c->peers = p;
    return p;
}

void rescue_forget_all(struct channel *c)
{
    while (c->peers)
        peer_drop(c, c->peers->id);
    c->looked_at = 0;
    c->looking = false;
}

/* An answer that took long may mean that Redis stood still, and every owner's renewal with it. */
static void answer_timed(struct channel *c, int64_t asked)
{
    int64_t now = time_boot();
    if ((double)(now - asked) > c->lease * 1e6 / 6)
        c->steady_since = now;
}

static bool lease_has_lapsed(const struct channel *c, const struct peer *p, int64_t lease)
{
    int64_t now = time_boot(), grace = lease / 3 < GRACE ? lease / 3 : GRACE;
    /* Looks must come often enough that no renewal can have missed Redis between two of them. */
    bool watched = p->alive_at && p->alive_at >= c->steady_since && c->lease * 1e6 <= (double)lease;
    if (watched && p->missing_since >= p->alive_until)
        return now >= p->alive_until + grace;
    return now - p->missing_since >= lease;
}

/* --- one rescue --- */

static void rescue_next(struct rescue *r);

static void rescue_end(struct rescue *r)
{
    struct channel *c = r->c;
    if (r->n_moved)
        note(c, true, "gave back %zu message(s) of a worker that is gone: %s", r->n_moved, r->id);
    for (struct rescue **at = &c->rescues; *at; at = &(*at)->next)
        if (*at == r) {
            *at = r->next;
            break;
        }
    arguments_done(&r->entries);
    cJSON_Delete(r->about);
    free(r->id);
    free(r->lease_key);
    free(r);
}

/* A list is [its name, that of the queue]. */
static const char *list_name(const cJSON *list)
{
    return list->child->valuestring;
}

static const char *list_queue(const cJSON *list)
{
    return list->child->next->valuestring;
}

static bool rescue_failed(struct rescue *r, const redisReply *reply)
{
    bool stale = !reply || r->era != r->c->era;
    if (!stale && reply->type != REDIS_REPLY_ERROR)
        return false;
    if (reply)
        note_error(r->c, "giving back messages of a dead worker", reply);
    rescue_end(r);
    return true;
}

/* A list, or the queue it came from, is none: the registration stays for it, and the other lists
 * are given back. */
static bool list_failed(struct rescue *r, const redisReply *reply)
{
    if (!reply || r->era != r->c->era || reply->type != REDIS_REPLY_ERROR ||
        !strstr(reply->str, "WRONGTYPE"))
        return false;
    char *what = mem_printf("giving back what is in %.300s", list_name(r->list));
    note_error(r->c, what, reply);
    free(what);
    r->list = r->list->next;
    r->n_next = 1;
    rescue_next(r);
    return true;
}

static void given_back(const redisReply *reply, void *arg)
{
    struct rescue *r = arg;
    if (list_failed(r, reply) || rescue_failed(r, reply))
        return;
    if (reply->integer < 0) {
        peer_drop(r->c, r->id);
        rescue_end(r);
        return;
    }
    r->n_moved += (size_t)reply->integer;
    rescue_next(r);
}

static void forgotten(const redisReply *reply, void *arg)
{
    struct rescue *r = arg;
    if (rescue_failed(r, reply))
        return;
    peer_drop(r->c, r->id);
    rescue_end(r);
}

/* Newest first: the oldest is pushed last, and so is served first, as it was. */
static void entries_read(const redisReply *reply, void *arg)
{
    struct rescue *r = arg;
    if (list_failed(r, reply) || rescue_failed(r, reply))
        return;
    if (reply->type != REDIS_REPLY_ARRAY || !reply->elements) {
        r->list = r->list->next;
        r->n_next = 1;
        rescue_next(r);
        return;
    }
    arguments_done(&r->entries);
    r->entries = (struct argument_list){.bytes = BUF_INIT(SIZE_MAX / 4)};
    arguments_text(&r->entries, list_name(r->list));
    arguments_text(&r->entries, list_queue(r->list));
    arguments_text(&r->entries, r->lease_key);
    size_t bytes = 0;
    for (size_t i = 0; i < reply->elements; i++) {
        const redisReply *entry = reply->element[i];
        bytes += entry->len;
        char *marked = message_encode_redelivered(entry->str, entry->len);
        arguments_add(&r->entries, entry->str, entry->len);
        if (marked)
            arguments_text(&r->entries, marked);
        else
            arguments_add(&r->entries, entry->str, entry->len);
        free(marked);
    }
    r->n_next = script_give_back_most(bytes, reply->elements);
    if (redis_run(r->c->redis, &script_give_back, given_back, r, 3, r->entries.n,
                  arguments_seal(&r->entries)))
        rescue_end(r);
}

static void rescue_forget(struct rescue *r)
{
    struct argument_list list = {.bytes = BUF_INIT(1 << 24)};
    arguments_text(&list, r->c->registry_key);
    arguments_text(&list, r->lease_key);
    for (const cJSON *l = json_get(r->about, "lists")->child; l; l = l->next)
        arguments_text(&list, list_name(l));
    list.n_keys = list.n;
    arguments_text(&list, r->id);
    int code = redis_run(r->c->redis, &script_forget, forgotten, r, list.n_keys, list.n,
                         arguments_seal(&list));
    arguments_done(&list);
    if (code)
        rescue_end(r);
}

static void rescue_next(struct rescue *r)
{
    if (!r->list) {
        rescue_forget(r);
        return;
    }
    char last[16];
    snprintf(last, sizeof last, "%d", r->n_next - 1);
    if (redis_send(r->c->redis, entries_read, r, 4,
                   (struct slice[]){slice_of("LRANGE"), slice_of(list_name(r->list)),
                                    slice_of("0"), slice_of(last)}))
        rescue_end(r);
}

static void rescue_start(struct look *look)
{
    struct channel *c = look->c;
    for (struct rescue *r = c->rescues; r; r = r->next)
        if (strcmp(r->id, look->id) == 0)
            return;
    struct rescue *r = mem_zalloc(sizeof *r);
    *r = (struct rescue){
        .next = c->rescues, .c = c, .id = mem_dup(look->id), .era = c->era, .n_next = 1};
    r->lease_key = mem_printf("%scworker.lease.%s", c->prefix, r->id);
    r->about = look->about;
    look->about = NULL;
    r->list = json_get(r->about, "lists")->child;
    c->rescues = r;
    if (look->gone)
        redis_send(c->redis, NULL, NULL, 2,
                   (struct slice[]){slice_of("DEL"), slice_of(r->lease_key)});
    rescue_next(r);
}

/* --- looking --- */

static void look_free(struct look *look)
{
    cJSON_Delete(look->about);
    free(look->id);
    free(look);
}

/* Moves the next look to an earlier instant only. */
static void look_expect(struct channel *c, int64_t at)
{
    if (evtimer_pending(c->rescue_timer, NULL) && c->look_next <= at)
        return;
    int64_t wait = at - time_boot();
    c->look_next = at;
    timer_arm(c->rescue_timer, wait > 0 ? (double)wait / 1e6 + 0.002 : 0.002);
}

static void peer_judge(struct look *look, int64_t ttl_ms)
{
    struct channel *c = look->c;
    struct peer *p = peer_get(c, look->id);
    int64_t now = time_boot(), lease_ms = (int64_t)(c->lease * 1000);
    if (json_as_int(json_get(look->about, "lease_ms"), &lease_ms))
        lease_ms = lease_ms < LEASE_LEAST_MS  ? LEASE_LEAST_MS
                   : lease_ms > LEASE_MOST_MS ? LEASE_MOST_MS
                                              : lease_ms;
    bool alive = ttl_ms != -2; /* -1: somebody took its end away */
    if (alive) {
        p->alive_at = now;
        p->alive_until = now + (ttl_ms < 0 ? lease_ms : ttl_ms) * 1000;
        p->missing_since = 0;
    } else if (!p->missing_since) {
        p->missing_since = now;
    }
    if (look->gone || (p->missing_since && lease_has_lapsed(c, p, lease_ms * 1000)))
        rescue_start(look);
    else if (alive)
        look_expect(c, p->alive_until);
    else
        look_expect(c, now + (lease_ms * 1000 / 3 < GRACE ? lease_ms * 1000 / 3 : GRACE));
}

static void lease_seen(const redisReply *reply, void *arg)
{
    struct look *look = arg;
    if (reply && reply->type == REDIS_REPLY_INTEGER && look->era == look->c->era) {
        answer_timed(look->c, look->asked);
        peer_judge(look, reply->integer);
    }
    look_free(look);
}

/* Pairs of an in-flight list of this worker and another key: whatever else a registration names is
 * not emptied, least of all into itself. */
static bool lists_are_sound(const cJSON *lists, const char *id)
{
    if (!cJSON_IsArray(lists))
        return false;
    char *mark = mem_printf(".cworker.inflight.%s", id);
    bool sound = true;
    for (const cJSON *pair = lists->child; pair && sound; pair = pair->next) {
        const cJSON *list = cJSON_GetArrayItem(pair, 0), *queue = cJSON_GetArrayItem(pair, 1);
        sound = cJSON_IsString(list) && cJSON_IsString(queue) && strstr(list->valuestring, mark) &&
                strcmp(list->valuestring, queue->valuestring) != 0;
    }
    free(mark);
    return sound;
}

static bool death_is_proved(const cJSON *about)
{
    const char *host = json_get_string(about, "host"), *boot = json_get_string(about, "boot");
    int64_t pid, start;
    return host && boot && json_as_int(json_get(about, "pid"), &pid) &&
           json_as_int(json_get(about, "start"), &start) && lease_host_is_ours(host, boot) &&
           process_is_gone(pid, start);
}

static void peer_note(struct channel *c, const struct look *look)
{
    struct peer *p = peer_get(c, look->id);
    const char *host = json_get_string(look->about, "host");
    const char *boot = json_get_string(look->about, "boot");
    p->listed = true;
    if (!p->pid && host && boot && lease_host_is_ours(host, boot)) {
        json_as_int(json_get(look->about, "pid"), &p->pid);
        json_as_int(json_get(look->about, "start"), &p->start);
    }
}

static void peers_sweep(struct channel *c)
{
    for (struct peer *p = c->peers, *next; p; p = next) {
        next = p->next;
        if (!p->listed)
            peer_drop(c, p->id);
        else
            p->listed = false;
    }
}

/* A registration of a later format is left to later workers. */
static void registration_look(struct channel *c, const redisReply *id, const redisReply *text)
{
    int64_t version = 0;
    if (strcmp(id->str, c->incarnation) == 0)
        return;
    cJSON *about = json_parse(text->str, text->len, NULL);
    json_as_int(json_get(about, "v"), &version);
    if (version > 1)
        note_later(c, "what workers hold");
    if (version != 1 || !lists_are_sound(json_get(about, "lists"), id->str)) {
        if (version <= 1)
            note_rarely(c, "a registration in %s cannot be read: what its worker held is not given "
                           "back. `cworker recover` finds it; then HDEL takes the registration away",
                        c->registry_key);
        cJSON_Delete(about);
        return;
    }
    struct look *look = mem_alloc(sizeof *look);
    *look = (struct look){c, mem_dup(id->str), about, death_is_proved(about), time_boot(), c->era};
    peer_note(c, look);
    char *key = mem_printf("%scworker.lease.%s", c->prefix, id->str);
    if (redis_send(c->redis, lease_seen, look, 2,
                   (struct slice[]){slice_of("PTTL"), slice_of(key)}))
        look_free(look);
    free(key);
}

static void registry_read(const redisReply *reply, void *arg)
{
    struct channel *c = arg;
    c->looking = false;
    if (!reply || reply->type != REDIS_REPLY_ARRAY) {
        note_error(c, "reading the registry of workers, cworker.incarnations", reply);
        return;
    }
    answer_timed(c, c->looked_at);
    c->n_peers = (int)(reply->elements / 2);
    for (size_t i = 0; i + 1 < reply->elements; i += 2)
        if (reply->element[i]->type == REDIS_REPLY_STRING &&
            reply->element[i + 1]->type == REDIS_REPLY_STRING)
            registration_look(c, reply->element[i], reply->element[i + 1]);
    peers_sweep(c);
}

/* A proxy may have changed the server behind an unbroken connection. */
static void run_checked(const redisReply *reply, void *arg)
{
    struct channel *c = arg;
    if (reply && reply->type == REDIS_REPLY_STRING && *c->run_id && !strstr(reply->str, c->run_id))
        redis_reconnect(c->redis, "another server answers on this connection");
}

void rescue_look(struct channel *c)
{
    if (!c->ready || c->looking || c->passive)
        return;
    int64_t now = time_boot();
    if ((double)(now - c->looked_at) > c->lease * 1e6 / 2)
        c->steady_since = now; /* the first one, or this worker itself stood still */
    c->looked_at = now;
    redis_sendf(c->redis, run_checked, c, "INFO server");
    c->looking = redis_send(c->redis, registry_read, c, 2,
                            (struct slice[]){slice_of("HGETALL"), slice_of(c->registry_key)}) == 0;
}

void rescue_due(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    rescue_look(arg);
}

/* Neighbours on this host are seen to end as soon as they do. */
void rescue_watch_pids(struct channel *c)
{
    int64_t now = time_boot();
    if (now < c->pids_at + LOOK_AT_PIDS)
        return;
    c->pids_at = now;
    for (struct peer *p = c->peers; p; p = p->next)
        if (p->pid && process_is_gone(p->pid, p->start)) {
            rescue_look(c);
            return;
        }
}
