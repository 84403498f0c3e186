/* SPDX-License-Identifier: Apache-2.0 */
/* The result store's front: picks the backend by the URL's scheme, counts what is pending, and is
 * itself the store that keeps nothing. The one idea: a backend gets entries and settles each
 * exactly once on the loop thread, never from within store_put. */
#include "worker/store/backend.h"

#include "broker/url.h"
#include "proto/base/clock.h"
#include "proto/base/mem.h"
#include "worker/config/settings.h"
#include "worker/store/spool.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* Of records that the backend has; beyond it they go to the spool file. */
enum { MEMORY_MAX = 32 << 20 };

struct store {
    const struct store_ops *ops;
    void *backend;
    size_t n_pending, n_bytes; /* of these in memory */
    bool taking_back;
    struct spool *spool;
    struct store_list overflow; /* what the spool file could not take */
    struct store_setup setup;
};

double store_clock(void)
{
    return (double)clock_us(CLOCK_MONOTONIC) / 1e6;
}

double store_random(void)
{
    uint32_t random = 0;
    if (getrandom(&random, sizeof random, GRND_NONBLOCK) < 0)
        random = (uint32_t)(store_clock() * 1e6);
    return random / (double)UINT32_MAX;
}

double store_backoff(unsigned n_attempts)
{
    return 0.1 * (double)(1u << (n_attempts < 5 ? n_attempts : 5)) * (1 - 0.25 * store_random());
}

/* --- the store that keeps nothing ------------------------------------------------------------- */

struct null_store {
    struct event *event;
    struct store_list list;
};

static void settle_all(evutil_socket_t fd, short what, void *arg)
{
    struct null_store *n = arg;
    struct store_list list = n->list;
    (void)fd, (void)what;
    n->list = (struct store_list){0};
    for (struct store_entry *e; (e = list_pop(&list));)
        entry_settle(e, 0, NULL);
}

static void *null_open(const struct store_setup *setup, struct error *err)
{
    struct null_store *n = mem_zalloc(sizeof *n);
    (void)err;
    n->event = event_new(setup->base, -1, 0, settle_all, n);
    return n;
}

static void null_put(void *backend, struct store_entry *e)
{
    struct null_store *n = backend;
    list_push(&n->list, e);
    event_active(n->event, 0, 0);
}

struct null_query {
    store_read_fn *fn;
    void *arg;
};

static void answer_nothing(evutil_socket_t fd, short what, void *arg)
{
    struct null_query q = *(struct null_query *)arg;
    (void)fd, (void)what;
    free(arg);
    q.fn(0, NULL, q.arg);
}

static void null_get(void *backend, const char *id, store_read_fn *fn, void *arg)
{
    struct null_store *n = backend;
    struct null_query *q = mem_alloc(sizeof *q);
    const struct timeval now = {0, 0};
    (void)id;
    *q = (struct null_query){fn, arg};
    event_base_once(event_get_base(n->event), -1, EV_TIMEOUT, answer_nothing, q, &now);
}

static void null_close(void *backend, double patience)
{
    struct null_store *n = backend;
    (void)patience;
    while (n->list.first)
        settle_all(-1, 0, n);
    event_free(n->event);
    free(n);
}

static char *null_read(const struct store_setup *setup, const char *id, struct error *err)
{
    (void)setup, (void)id;
    error_set(err, ERROR_UNSUPPORTED, "no result_backend is set: nothing is stored");
    return NULL;
}

static const struct store_ops null_ops = {null_open, null_put, null_get, null_close, null_read};

/* --- which one -------------------------------------------------------------------------------- */

static const struct store_ops *ops_of(const char *url, struct error *err)
{
    static const struct {
        const char *scheme;
        const struct store_ops *ops;
    } rows[] = {
        {"mongodb", &store_mongo_ops},      {"mongodb+srv", &store_mongo_ops},
        {"redis", &store_redis_ops},        {"rediss", &store_redis_ops},
        {"redis+socket", &store_redis_ops}, {"unix", &store_redis_ops},
        {"sentinel", &store_redis_ops},
        {"file", &store_file_ops},          {"disabled", &null_ops},
    };
    if (!url || !*url)
        return &null_ops;
    size_t size = strcspn(url, ":");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (size == strlen(rows[i].scheme) && !memcmp(url, rows[i].scheme, size))
            return rows[i].ops;
    error_set(
        err, ERROR_UNSUPPORTED,
        "\"%.*s\" is not one of mongodb://, mongodb+srv://, redis://, rediss://, "
        "redis+socket://, sentinel://, file://, disabled://",
        (int)size, url);
    return NULL;
}

/* Celery's rule: an underscore is put in between unless the prefix ends like one. */
static char *key_prefix(const struct settings *settings)
{
    const char *prefix =
        json_get_string(settings->result_backend_transport_options, "global_keyprefix");
    if (!prefix || !*prefix)
        return mem_dup(STORE_TASK_KEY);
    bool separated = strchr(":_-.", prefix[strlen(prefix) - 1]) != NULL;
    return mem_printf("%s%s" STORE_TASK_KEY, prefix, separated ? "" : "_");
}

static void setup_init(struct store_setup *setup, struct event_base *base, const char *url,
                       const struct settings *settings, const struct store_handlers *handlers)
{
    *setup = (struct store_setup){
        .base = base,
        .url = url,
        .name = url ? url_mask(url) : mem_dup("disabled://"),
        .key_prefix = key_prefix(settings),
        .settings = settings,
        .expires = settings->result_expires > 0 ? settings->result_expires : 0,
    };
    if (handlers)
        setup->handlers = *handlers;
}

static void setup_done(struct store_setup *setup)
{
    free(setup->name);
    free(setup->key_prefix);
}

/* --- the interface ---------------------------------------------------------------------------- */

struct store *store_open(struct event_base *base, const char *url, const struct settings *settings,
                         const struct store_handlers *handlers, struct error *err)
{
    const struct store_ops *ops = ops_of(url, err);
    if (!ops)
        return NULL;
    struct store *s = mem_zalloc(sizeof *s);
    s->ops = ops;
    setup_init(&s->setup, base, url, settings, handlers);
    s->backend = ops->open(&s->setup, err);
    if (!s->backend) {
        error_wrap(err, "%s", s->setup.name);
        setup_done(&s->setup);
        free(s);
        return NULL;
    }
    s->spool = spool_open(settings->result_spool_dir, settings->result_spool_size);
    s->setup.settings = NULL;
    s->setup.url = NULL;
    return s;
}

void store_close(struct store *s)
{
    if (!s)
        return;
    s->ops->close(s->backend, 5);
    for (struct store_entry *e; (e = list_pop(&s->overflow));)
        entry_free(e);
    spool_close(s->spool);
    setup_done(&s->setup);
    free(s);
}

static void put_now(struct store *s, struct store_entry *e)
{
    s->n_bytes += e->size;
    s->ops->put(s->backend, e);
}

/* Behind what was set aside before: an earlier record of its id may be there. */
static void put_aside(struct store *s, struct store_entry *e)
{
    struct error err = {0};
    if (!s->overflow.first && spool_push(s->spool, e, &err) == 0)
        return;
    if (!s->overflow.first && s->setup.handlers.on_note)
        s->setup.handlers.on_note(err.text, true, s->setup.handlers.arg);
    list_push(&s->overflow, e);
}

static struct store_entry *take_back(struct store *s)
{
    return spool_is_empty(s->spool) ? list_pop(&s->overflow) : spool_pop(s->spool);
}

static void lose(struct store *s, struct store_entry *e)
{
    s->n_bytes += e->size;
    entry_settle(e, ERROR_LOST, "its record cannot be read back from the spool file");
}

void store_settled(struct store *s, size_t size)
{
    s->n_pending--;
    s->n_bytes -= size;
    if (s->taking_back) /* a lost record is settled from here */
        return;
    s->taking_back = true;
    struct store_entry *e;
    while (s->n_bytes < MEMORY_MAX && (e = take_back(s)))
        if (e->code == ERROR_LOST)
            lose(s, e);
        else
            put_now(s, e);
    s->taking_back = false;
}

void store_put(struct store *s, const struct store_record *record, store_done_fn *fn, void *arg)
{
    struct store_entry *e = entry_copy(record);
    e->fn = fn;
    e->arg = arg;
    e->store = s;
    s->n_pending++;
    if (s->n_bytes >= MEMORY_MAX || s->overflow.first || !spool_is_empty(s->spool))
        put_aside(s, e);
    else
        put_now(s, e);
}

bool store_is_down(const struct store *s)
{
    return s->ops->is_down && s->ops->is_down(s->backend);
}

bool store_is_spooling(const struct store *s)
{
    return !spool_is_empty(s->spool);
}

bool store_is_full(const struct store *s)
{
    return s->overflow.first != NULL;
}

bool store_keeps(const struct store *s)
{
    return s->ops != &null_ops;
}

size_t store_pending(const struct store *s)
{
    return s->n_pending;
}

char *store_read(const char *url, const struct settings *settings, const char *id,
                 struct error *err)
{
    struct error ignored;
    struct error *e = err ? err : &ignored;
    struct store_setup setup;
    const struct store_ops *ops = ops_of(url, e);
    if (!ops)
        return NULL;
    *e = (struct error){0};
    setup_init(&setup, NULL, url, settings, NULL);
    char *text = ops->read(&setup, id, e);
    if (!text && e->code < 0)
        error_wrap(e, "%s", setup.name);
    setup_done(&setup);
    return text;
}

void store_get(struct store *s, const char *id, store_read_fn *fn, void *arg)
{
    s->ops->get(s->backend, id, fn, arg);
}

bool store_counts_chords(const struct store *s)
{
    return s->ops->add_part != NULL;
}

void store_prepare_chord(struct store *s, const struct store_header *header, store_done_fn *fn,
                         void *arg)
{
    if (s->ops->prepare_chord)
        s->ops->prepare_chord(s->backend, header, fn, arg);
    else
        fn(ERROR_UNSUPPORTED, "this result store does not count chords", arg);
}

void store_add_part(struct store *s, const struct store_part *part, store_chord_fn *fn, void *arg)
{
    if (s->ops->add_part)
        s->ops->add_part(s->backend, part, fn, arg);
    else
        fn(ERROR_UNSUPPORTED, NULL, arg);
}

void store_forget_chord(struct store *s, const char *group)
{
    if (s->ops->forget_chord)
        s->ops->forget_chord(s->backend, group);
}

void store_tidy(struct store *s)
{
    if (s->ops->tidy)
        s->ops->tidy(s->backend);
}
