/* SPDX-License-Identifier: Apache-2.0 */
/* Redis: Celery's keys and messages, pipelined on the loop. Guard, write and notice are one script,
 * so that no second worker comes in between. The guard looks at the first bytes of the stored
 * record only: every writer puts the status there, and reading twenty bytes costs the same for a
 * result of any size, where cjson would parse it all.
 *
 * An entry is in one of three lists: waiting (never sent), sent (unanswered), again (sent, and lost
 * with the connection or refused for now; goes before the waiting ones). */
#include "worker/store/redis_calls.h"

#include "broker/redis.h"
#include "broker/timer.h"
#include "proto/base/mem.h"
#include "worker/config/settings.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WINDOW = 1024, UNSENT_MAX = 8 << 20 };

static struct redis_script put_script = {
    .body = "local head = string.gsub(redis.call('GETRANGE', KEYS[1], 0, 19), ' ', '')\n"
            "if string.sub(head, 1, 19) == '{\"status\":\"SUCCESS\"' then return 0 end\n"
            "if ARGV[2] == '0' then redis.call('SET', KEYS[1], ARGV[1])\n"
            "else redis.call('SETEX', KEYS[1], ARGV[2], ARGV[1]) end\n"
            "redis.call('PUBLISH', KEYS[1], ARGV[1])\n"
            "return 1\n",
};

struct redis_store {
    struct event_base *base;
    struct redis *redis;
    char *name, *key_prefix;
    struct store_handlers handlers;
    char expires[24];
    struct store_list waiting, again;
    struct command *sent;
    size_t n_sent;
    struct query *queries; /* to be asked when the connection is up */
    bool was_up; /* the connection that ends, or is the present one */
    bool primed; /* one answer has come on this connection, so the script is known to the server */
    struct buf text;
    struct event *retry; /* pending while the server refuses writes for now */
    unsigned n_attempts;
    double down_since;
    bool closing;
    struct redis_chords chords;
};

/* One of ours under way. It outlives the store only inside redis_close. */
struct command {
    struct command *next, *prev;
    struct redis_store *store;
    struct store_entry *entry;
};

struct query {
    struct query *next;
    store_read_fn *fn;
    void *arg;
    char id[];
};

static void send_more(struct redis_store *s);
static void send_queries(struct redis_store *s);
static void fail_queries(struct redis_store *s);

/* --- outages ---------------------------------------------------------------------------------- */

static void note(struct redis_store *s, bool warning, const char *what, const char *why)
{
    if (!s->handlers.on_note || s->closing)
        return;
    char *text = mem_printf("result store %s: %s%s", s->name, what, why);
    s->handlers.on_note(text, warning, s->handlers.arg);
    free(text);
}

static void outage_begins(struct redis_store *s, const char *why)
{
    if (s->down_since > 0)
        return;
    s->down_since = store_clock();
    note(s, true, "results wait in memory until it answers: ", why);
}

static void outage_ends(struct redis_store *s)
{
    s->n_attempts = 0;
    if (s->down_since <= 0)
        return;
    char seconds[32];
    snprintf(seconds, sizeof seconds, "%.1f s", store_clock() - s->down_since);
    s->down_since = 0;
    note(s, false, "works again after ", seconds);
}

static bool is_paused(const struct redis_store *s)
{
    return evtimer_pending(s->retry, NULL);
}

static void pause_sending(struct redis_store *s)
{
    if (is_paused(s))
        return;
    timer_arm(s->retry, store_backoff(s->n_attempts++));
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    send_more(arg);
}

static void on_up(struct redis *r, void *arg)
{
    struct redis_store *s = arg;
    (void)r;
    s->primed = false;
    s->was_up = true;
    if (!s->again.first && !s->waiting.first)
        outage_ends(s);
    send_queries(s);
    send_more(s);
    redis_calls_up(s->chords.calls);
}

/* A connection that nobody needed may be closed by a server or proxy for just that; when the next
 * one fails it is an outage. */
static void on_down(struct redis *r, const char *reason, void *arg)
{
    struct redis_store *s = arg;
    (void)r;
    bool idle = !s->n_sent && !s->again.first && !s->waiting.first && !s->queries;
    if (!idle || !s->was_up)
        outage_begins(s, reason);
    s->was_up = false;
    fail_queries(s);
}

/* --- writing ---------------------------------------------------------------------------------- */

static void unlink_command(struct command *c)
{
    if (c->next)
        c->next->prev = c->prev;
    if (c->prev)
        c->prev->next = c->next;
    else
        c->store->sent = c->next;
    c->store->n_sent--;
}

/* An older record that was refused must not be written after a newer one of its id: it is
 * superseded. */
static void drop_older(struct redis_store *s, const char *id)
{
    struct store_list kept = {0}, all = s->again, dropped = {0};
    if (!all.first)
        return;
    for (struct store_entry *e; (e = list_pop(&all));)
        list_push(strcmp(e->record.id, id) ? &kept : &dropped, e);
    s->again = kept;
    for (struct store_entry *e; (e = list_pop(&dropped));)
        entry_settle(e, 0, NULL);
}

static void on_stored(const redisReply *reply, void *arg)
{
    struct command *c = arg;
    struct redis_store *s = c->store;
    struct store_entry *e = c->entry;
    unlink_command(c);
    free(c);
    if (!reply) {
        list_push(&s->again, e);
        return;
    }
    s->primed = true;
    if (reply->type != REDIS_REPLY_ERROR) {
        drop_older(s, e->record.id);
        outage_ends(s);
        entry_settle(e, 0, NULL);
    } else if (redis_error_passes(reply->str)) {
        outage_begins(s, reply->str);
        pause_sending(s);
        list_push(&s->again, e);
    } else {
        struct error why;
        error_set(&why, ERROR_INVALID, "Redis refuses the record: %s", reply->str);
        entry_settle(e, why.code, why.text);
    }
    send_more(s);
}

/* False when the connection is not up: the entry is still the caller's. */
static bool send_entry(struct redis_store *s, struct store_entry *e)
{
    struct error why;
    buf_reset(&s->text);
    if (record_print(&e->record, &s->text, &why) < 0) {
        entry_settle(e, why.code, why.text);
        return true;
    }
    char *key = mem_printf("%s%s", s->key_prefix, e->record.id);
    struct slice argv[] = {slice_of(key), {s->text.data, s->text.size}, slice_of(s->expires)};
    struct command *c = mem_alloc(sizeof *c);
    *c = (struct command){.next = s->sent, .store = s, .entry = e};
    if (s->sent)
        s->sent->prev = c;
    s->sent = c;
    s->n_sent++;
    bool ok = redis_run(s->redis, &put_script, on_stored, c, 1, 3, argv) == 0;
    free(key);
    if (!ok) {
        unlink_command(c);
        free(c);
    }
    return ok;
}

/* The first command of a connection goes alone: were several told NOSCRIPT and repeated, a later
 * record of the same id could overtake them. */
static bool has_room(const struct redis_store *s)
{
    return redis_is_up(s->redis) && !s->closing && !is_paused(s) &&
           s->n_sent < (s->primed ? WINDOW : 1) &&
           (s->n_sent == 0 || redis_unsent(s->redis) < UNSENT_MAX);
}

static void send_more(struct redis_store *s)
{
    while (has_room(s)) {
        struct store_list *from = s->again.first ? &s->again : &s->waiting;
        struct store_entry *e = list_pop(from);
        if (!e)
            break;
        if (!send_entry(s, e)) {
            list_push_front(from, e);
            break;
        }
    }
    if (s->text.capacity > UNSENT_MAX)
        buf_done(&s->text);
}

/* Sent from the loop's next round, so that nothing is settled within store_put. */
static void redis_put(void *backend, struct store_entry *e)
{
    struct redis_store *s = backend;
    bool was_empty = !s->waiting.first;
    list_push(&s->waiting, e);
    if (was_empty && !is_paused(s))
        event_active(s->retry, EV_TIMEOUT, 0);
}

/* --- reading ---------------------------------------------------------------------------------- */

static int read_reply(const redisReply *reply, const char **ret_text, struct error *err)
{
    *ret_text = NULL;
    if (!reply)
        return error_set(err, ERROR_UNAVAILABLE, "Redis does not answer");
    if (reply->type == REDIS_REPLY_ERROR)
        return error_set(err, redis_error_passes(reply->str) ? ERROR_UNAVAILABLE : ERROR_INVALID,
                         "%s", reply->str);
    if (reply->type != REDIS_REPLY_STRING)
        return 0;
    if (reply->len == 0 || reply->str[0] != '{')
        return error_set(err, ERROR_UNSUPPORTED, "the stored result is not JSON");
    *ret_text = reply->str;
    return 0;
}

static void on_read(const redisReply *reply, void *arg)
{
    struct query *q = arg;
    const char *text;
    int code = read_reply(reply, &text, NULL);
    q->fn(code, text, q->arg);
    free(q);
}

static int ask(struct redis *r, const char *key_prefix, const char *id, redis_reply_fn *fn,
               void *arg)
{
    char *key = mem_printf("%s%s", key_prefix, id);
    struct slice argv[] = {slice_of("GET"), slice_of(key)};
    int code = redis_send(r, fn, arg, 2, argv);
    free(key);
    return code;
}

static void send_queries(struct redis_store *s)
{
    struct query *q;
    while ((q = s->queries) && redis_is_up(s->redis) &&
           ask(s->redis, s->key_prefix, q->id, on_read, q) == 0)
        s->queries = q->next;
}

static void fail_queries(struct redis_store *s)
{
    struct query *q = s->queries;
    s->queries = NULL;
    for (struct query *next; q; q = next) {
        next = q->next;
        on_read(NULL, q);
    }
}

/* Never answered from within. Without a connection the answer comes with the end of the present
 * attempt. */
static void redis_get(void *backend, const char *id, store_read_fn *fn, void *arg)
{
    struct redis_store *s = backend;
    size_t size = strlen(id) + 1;
    struct query *q = mem_alloc(sizeof *q + size);
    *q = (struct query){.next = s->queries, .fn = fn, .arg = arg};
    memcpy(q->id, id, size);
    s->queries = q;
    send_queries(s);
}

/* --- opening and closing ---------------------------------------------------------------------- */

static void open_chords(struct redis_store *s, const struct store_setup *setup)
{
    const cJSON *ordered =
        json_get(setup->settings->result_backend_transport_options, "result_chord_ordered");
    s->chords.calls = redis_calls_open(setup->base, s->redis);
    s->chords.prefix =
        mem_ndup(setup->key_prefix, strlen(setup->key_prefix) - strlen(STORE_TASK_KEY));
    s->chords.ordered = !cJSON_IsFalse(ordered);
    memcpy(s->chords.expires, s->expires, sizeof s->expires);
}

/* Of sentinels the transport options say which master, as of a broker's. */
static int url_of(const struct store_setup *setup, struct redis_url *ret_url, struct error *err)
{
    const cJSON *options = setup->settings->result_backend_transport_options;
    int code = redis_url_parse(setup->url, ret_url, err);
    if (code != 0)
        return code;
    code = redis_url_set_master(ret_url, json_get_string(options, "master_name"),
                                json_get(options, "sentinel_kwargs"), err);
    if (code != 0)
        redis_url_done(ret_url);
    return code;
}

static void *redis_store_open(const struct store_setup *setup, struct error *err)
{
    struct redis_url url;
    if (url_of(setup, &url, err) < 0)
        return NULL;
    struct redis_store *s = mem_zalloc(sizeof *s);
    s->base = setup->base;
    s->name = mem_dup(setup->name);
    s->key_prefix = mem_dup(setup->key_prefix);
    s->handlers = setup->handlers;
    s->text = BUF_INIT(STORE_MAX_RECORD);
    s->retry = evtimer_new(setup->base, on_retry, s);
    /* Redis takes whole seconds; less than one still means that it expires. */
    double expires = setup->expires > 0 && setup->expires < 1 ? 1 : setup->expires;
    snprintf(s->expires, sizeof s->expires, "%" PRId64, (int64_t)(expires < 1e15 ? expires : 1e15));
    const struct redis_handlers handlers = {.on_up = on_up, .on_down = on_down, .arg = s};
    const struct redis_options options = {.client_name = "cworker-results"};
    s->redis = redis_open(setup->base, &url, &options, &handlers);
    redis_url_done(&url);
    open_chords(s, setup);
    return s;
}

static bool is_idle(const struct redis_store *s)
{
    return !s->n_sent && !s->again.first && !s->waiting.first;
}

static void wake(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what, (void)arg;
}

/* Called from within the loop, which cannot run in itself, it only waits until Redis has read what
 * is sent. */
static void redis_store_close(void *backend, double patience)
{
    struct redis_store *s = backend;
    double deadline = store_clock() + patience;
    const struct timeval soon = {0, 50000};
    struct event *tick = event_new(s->base, -1, EV_PERSIST, wake, NULL);
    evtimer_add(tick, &soon);
    while (!is_idle(s) && store_clock() < deadline && event_base_loop(s->base, EVLOOP_ONCE) == 0)
        continue;
    event_free(tick);
    s->closing = true;
    double left = deadline - store_clock();
    redis_finish(s->redis, is_idle(s) || left < 0 ? 0 : left);
    redis_calls_close(s->chords.calls);
    free(s->chords.prefix);
    for (struct query *q; (q = s->queries);) {
        s->queries = q->next;
        free(q);
    }
    struct store_list *lists[] = {&s->again, &s->waiting};
    for (size_t i = 0; i < 2; i++)
        for (struct store_entry *e; (e = list_pop(lists[i]));)
            entry_free(e);
    event_free(s->retry);
    buf_done(&s->text);
    free(s->name);
    free(s->key_prefix);
    free(s);
}

/* --- the blocking read ------------------------------------------------------------------------ */

struct blocking {
    struct event_base *base;
    const char *key_prefix, *id;
    char *text;
    struct error *err;
};

static void on_answer(const redisReply *reply, void *arg)
{
    struct blocking *b = arg;
    const char *text;
    if (!reply && b->err->code)
        return;
    b->err->code = 0;
    if (read_reply(reply, &text, b->err) == 0)
        b->text = mem_dup(text);
    event_base_loopbreak(b->base);
}

static void on_blocking_up(struct redis *r, void *arg)
{
    struct blocking *b = arg;
    ask(r, b->key_prefix, b->id, on_answer, b);
}

static void on_blocking_down(struct redis *r, const char *reason, void *arg)
{
    struct blocking *b = arg;
    (void)r;
    error_set(b->err, ERROR_UNAVAILABLE, "%s", reason);
    event_base_loopbreak(b->base);
}

static char *redis_store_read(const struct store_setup *setup, const char *id, struct error *err)
{
    struct redis_url url;
    const struct timeval patience = {10, 0};
    if (url_of(setup, &url, err) < 0)
        return NULL;
    struct blocking b = {event_base_new(), setup->key_prefix, id, NULL, err};
    const struct redis_handlers handlers = {
        .on_up = on_blocking_up, .on_down = on_blocking_down, .arg = &b};
    const struct redis_options options = {.client_name = "cworker"};
    struct redis *r = redis_open(b.base, &url, &options, &handlers);
    redis_url_done(&url);
    error_set(err, ERROR_TIMEOUT, "%s does not answer", setup->name);
    event_base_loopexit(b.base, &patience);
    event_base_dispatch(b.base);
    struct error found = *err;
    redis_close(r);
    event_base_free(b.base);
    *err = found;
    return b.text;
}

/* --- chords ----------------------------------------------------------------------------------- */

static void prepare_chord(void *backend, const struct store_header *h, store_done_fn *fn, void *arg)
{
    redis_chord_prepare(&((struct redis_store *)backend)->chords, h, fn, arg);
}

static void add_part(void *backend, const struct store_part *p, store_chord_fn *fn, void *arg)
{
    redis_chord_add(&((struct redis_store *)backend)->chords, p, fn, arg);
}

static void forget_chord(void *backend, const char *group)
{
    redis_chord_forget(&((struct redis_store *)backend)->chords, group);
}

static bool redis_is_down(void *backend)
{
    return ((const struct redis_store *)backend)->down_since > 0;
}

const struct store_ops store_redis_ops = {.open = redis_store_open,
                                          .put = redis_put,
                                          .get = redis_get,
                                          .close = redis_store_close,
                                          .read = redis_store_read,
                                          .is_down = redis_is_down,
                                          .prepare_chord = prepare_chord,
                                          .add_part = add_part,
                                          .forget_chord = forget_chord};
