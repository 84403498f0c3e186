/* SPDX-License-Identifier: Apache-2.0 */
/* Chords as Celery's Redis backend counts them, in its own keys, so that the parts of one chord may end in
 * Python workers and in ours:
 *
 *   celery-taskset-meta-G     the header's result, where members are groups themselves
 *   celery-taskset-meta-G.s   how many parts there are     .t   how many were added to them
 *   celery-taskset-meta-G.j   zset (by index) or list of the parts that ended: [1, id, state, result]
 *   celery-taskset-meta-G.cworker.body   ours: the part whose message sends the body
 *   celery-taskset-meta-G.cworker.ids    ours: id → element, for parts without an index and for lists; the
 *                                        ids that were added
 *
 * A part that ends twice is counted once: its element is replaced, a SUCCESS by nothing. The part that
 * makes the count full claims the body; only a redelivery of that same part claims it again. A kill -9
 * before the claim leaves a part that is counted again, after the claim one whose message claims again:
 * the body leaves with that message's ack, once. The keys go after that ack. */

#include "worker/store/redis_calls.h"

#include "proto/base/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE = 5000 };

static struct redis_script part_script = {
    .body =
        "local j, element, index, head, expires = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]\n"
        "local ordered = ARGV[5] == '1'\n"
        "local function drop(old)\n"
        "  if ordered then redis.call('ZREM', j, old) else redis.call('LREM', j, 1, old) end\n"
        "end\n"
        "local function add()\n"
        "  if ordered then redis.call('ZADD', j, index, element)\n"
        "  else redis.call('RPUSH', j, element) end\n"
        "end\n"
        "local function succeeded(old)\n"
        "  return string.sub(old, #head + 1, #head + 9) == '\"SUCCESS\"'\n"
        "end\n"
        "local known = false\n"
        "if ordered and index ~= '+inf' then\n"
        "  for _, old in ipairs(redis.call('ZRANGEBYSCORE', j, index, index)) do\n"
        "    if string.sub(old, 1, #head) == head then\n"
        "      if succeeded(old) then known = true else drop(old) end\n"
        "    end\n"
        "  end\n"
        "  if not known then add() end\n"
        "else\n"
        "  local old = redis.call('HGET', KEYS[5], head)\n"
        "  if old and not succeeded(old) then drop(old) old = false end\n"
        "  if not old then add() redis.call('HSET', KEYS[5], head, element) end\n"
        "end\n"
        "local count = redis.call(ordered and 'ZCARD' or 'LLEN', j)\n"
        "local added = tonumber(redis.call('GET', KEYS[3]) or '0')\n"
        "local size = tonumber(redis.call('GET', KEYS[2]) or ARGV[6])\n"
        "if expires ~= '0' then\n"
        "  for i = 1, 5 do redis.call('EXPIRE', KEYS[i], expires) end\n"
        "end\n"
        "if size == 0 or count < size + added then return {0} end\n"
        "local owner = redis.call('GET', KEYS[4])\n"
        "if owner and owner ~= head then return {0} end\n"
        "redis.call('SET', KEYS[4], head, 'EX', expires ~= '0' and expires or '86400')\n"
        "return {1, redis.call('GET', KEYS[6])}\n",
};

/* Counts an added part once, however often the task that adds it comes again. */
static struct redis_script added_script = {
    .body = "if redis.call('HSETNX', KEYS[2], 'added ' .. ARGV[1], '') == 1 then\n"
            "  redis.call('INCR', KEYS[1])\n"
            "end\n"
            "if ARGV[2] ~= '0' then\n"
            "  for i = 1, 2 do redis.call('EXPIRE', KEYS[i], ARGV[2]) end\n"
            "end\n",
};

static char *group_key(const struct redis_chords *c, const char *group, const char *suffix)
{
    return mem_printf("%scelery-taskset-meta-%s%s", c->prefix, group, suffix);
}

/* --- before the parts leave ----------------------------------------------------------------------- */

struct done {
    store_done_fn *fn;
    void *arg;
};

static void on_done(const redisReply *reply, void *arg)
{
    struct done d = *(struct done *)arg;
    free(arg);
    if (!reply || !d.fn)
        return;
    bool failed = reply->type == REDIS_REPLY_ERROR;
    d.fn(failed ? ERROR_INVALID : 0, failed ? reply->str : NULL, d.arg);
}

static void add_part(struct redis_chords *c, const struct store_header *h, struct done *d)
{
    char *count = group_key(c, h->group, ".t"), *ids = group_key(c, h->group, ".cworker.ids");
    struct slice argv[] = {slice_of(count), slice_of(ids), slice_of(h->added), slice_of(c->expires)};
    redis_call(c->calls, &added_script, 2, 4, argv, on_done, d);
    free(count);
    free(ids);
}

void redis_chord_prepare(struct redis_chords *c, const struct store_header *h, store_done_fn *fn,
                         void *arg)
{
    struct done *d = mem_alloc(sizeof *d);
    *d = (struct done){fn, arg};
    if (h->added) {
        add_part(c, h, d);
        return;
    }
    char size[24], *value = h->result ? mem_printf("{\"result\": %s}", h->result) : NULL;
    char *key = group_key(c, h->group, value ? "" : ".s");
    bool expire = strcmp(c->expires, "0") != 0;
    snprintf(size, sizeof size, "%" PRId64, h->size);
    struct slice argv[6] = {slice_of("SET"), slice_of(key), slice_of(value ? value : size)};
    int argc = 3;
    if (expire) {
        argv[argc++] = slice_of("EX");
        argv[argc++] = slice_of(c->expires);
    }
    if (h->keep)
        argv[argc++] = slice_of("NX");
    redis_call(c->calls, NULL, 0, argc, argv, on_done, d);
    free(key);
    free(value);
}

/* --- a part has ended ----------------------------------------------------------------------------- */

struct part_run {
    struct redis_chords *chords;
    char *group;
    store_chord_fn *fn;
    void *arg;
    struct buf results;
    size_t offset;
    char *failed_id, *failed;
};

static void run_free(struct part_run *run)
{
    free(run->group);
    free(run->failed_id);
    free(run->failed);
    buf_done(&run->results);
    free(run);
}

static void run_end(struct part_run *run, int code, const struct store_chord *chord)
{
    run->fn(code, chord, run->arg);
    run_free(run);
}

struct element {
    struct slice fields[4];
    int n;
};

static int take_field(struct slice value, void *arg)
{
    struct element *e = arg;
    if (e->n < 4)
        e->fields[e->n] = value;
    e->n++;
    return 0;
}

static bool is_state(struct slice state, const char *text)
{
    return state.size == strlen(text) && memcmp(state.at, text, state.size) == 0;
}

/* [1, id, state, result]: the first one that failed ends the reading. */
static void take_element(struct part_run *run, const redisReply *reply)
{
    struct element e = {0};
    struct slice text = {reply->str, reply->len};
    if (reply->type != REDIS_REPLY_STRING || json_walk_list(text, take_field, &e, NULL) < 0 || e.n < 4)
        return;
    if (is_state(e.fields[2], "\"FAILURE\"") || is_state(e.fields[2], "\"REVOKED\"")) {
        struct buf id = BUF_INIT(1 << 20);
        json_unquote(e.fields[1], &id);
        run->failed_id = buf_take(&id);
        run->failed = mem_ndup(e.fields[3].at, e.fields[3].size);
        return;
    }
    buf_str(&run->results, run->results.size ? ", " : "[");
    buf_add(&run->results, e.fields[3].at, e.fields[3].size);
}

static void ask_page(struct part_run *run);

static void on_page(const redisReply *reply, void *arg)
{
    struct part_run *run = arg;
    if (!reply || reply->type != REDIS_REPLY_ARRAY) {
        run_end(run, reply ? ERROR_INVALID : ERROR_UNAVAILABLE, NULL);
        return;
    }
    for (size_t i = 0; i < reply->elements && !run->failed; i++)
        take_element(run, reply->element[i]);
    run->offset += reply->elements;
    if (reply->elements == PAGE && !run->failed) {
        ask_page(run);
        return;
    }
    buf_str(&run->results, run->results.size ? "]" : "[]");
    run_end(run, 0, &(struct store_chord){.complete = true,
                                          .results = {run->results.data, run->results.size},
                                          .failed_id = run->failed_id,
                                          .failed = run->failed});
}

static void ask_page(struct part_run *run)
{
    char first[24], last[24], *key = group_key(run->chords, run->group, ".j");
    snprintf(first, sizeof first, "%zu", run->offset);
    snprintf(last, sizeof last, "%zu", run->offset + PAGE - 1);
    struct slice argv[] = {slice_of(run->chords->ordered ? "ZRANGE" : "LRANGE"), slice_of(key),
                           slice_of(first), slice_of(last)};
    redis_call(run->chords->calls, NULL, 0, 4, argv, on_page, run);
    free(key);
}

static void on_counted(const redisReply *reply, void *arg)
{
    struct part_run *run = arg;
    if (!reply || reply->type != REDIS_REPLY_ARRAY || reply->elements < 1) {
        run_end(run, reply ? ERROR_INVALID : ERROR_UNAVAILABLE, NULL);
    } else if (reply->element[0]->integer == 0) {
        run_end(run, 0, &(struct store_chord){0});
    } else if (reply->elements > 1 && reply->element[1]->type == REDIS_REPLY_STRING) {
        run_end(run, 0, &(struct store_chord){.complete = true, .saved = reply->element[1]->str});
    } else {
        ask_page(run);
    }
}

static void print_element(const struct store_part *p, struct buf *head, struct buf *element)
{
    buf_str(head, "[1, ");
    json_print_string(p->id, strlen(p->id), head);
    buf_str(head, ", ");
    buf_add(element, head->data, head->size);
    buf_printf(element, "\"%s\", ", p->state);
    if (p->result.at)
        buf_add(element, p->result.at, p->result.size);
    else
        buf_str(element, "null");
    buf_char(element, ']');
}

void redis_chord_add(struct redis_chords *c, const struct store_part *p, store_chord_fn *fn, void *arg)
{
    static const char *const suffixes[] = {".j", ".s", ".t", ".cworker.body", ".cworker.ids", ""};
    enum { N_KEYS = sizeof suffixes / sizeof *suffixes };
    struct part_run *run = mem_zalloc(sizeof *run);
    struct buf head = BUF_INIT(1 << 20), element = BUF_INIT(STORE_MAX_RECORD);
    struct slice argv[N_KEYS + 6];
    char index[24] = "+inf", size[24], *keys[N_KEYS];
    *run = (struct part_run){.chords = c, .group = mem_dup(p->group), .fn = fn, .arg = arg,
                             .results = BUF_INIT(STORE_MAX_RECORD)};
    if (p->index >= 0)
        snprintf(index, sizeof index, "%" PRId64, p->index);
    snprintf(size, sizeof size, "%" PRId64, p->size);
    print_element(p, &head, &element);
    for (int i = 0; i < N_KEYS; i++) {
        keys[i] = group_key(c, p->group, suffixes[i]);
        argv[i] = slice_of(keys[i]);
    }
    argv[N_KEYS] = (struct slice){element.data, element.size};
    argv[N_KEYS + 1] = slice_of(index);
    argv[N_KEYS + 2] = (struct slice){head.data, head.size};
    argv[N_KEYS + 3] = slice_of(c->expires);
    argv[N_KEYS + 4] = slice_of(c->ordered ? "1" : "0");
    argv[N_KEYS + 5] = slice_of(size);
    redis_call(c->calls, &part_script, N_KEYS, N_KEYS + 6, argv, on_counted, run);
    for (int i = 0; i < N_KEYS; i++)
        free(keys[i]);
    buf_done(&head);
    buf_done(&element);
}

void redis_chord_forget(struct redis_chords *c, const char *group)
{
    static const char *const suffixes[] = {".j", ".s", ".t", ".cworker.body", ".cworker.ids"};
    enum { N_KEYS = sizeof suffixes / sizeof *suffixes };
    struct slice argv[N_KEYS + 1] = {slice_of("DEL")};
    char *keys[N_KEYS];
    for (int i = 0; i < N_KEYS; i++) {
        keys[i] = group_key(c, group, suffixes[i]);
        argv[i + 1] = slice_of(keys[i]);
    }
    struct done *d = mem_zalloc(sizeof *d);
    redis_call(c->calls, NULL, 0, N_KEYS + 1, argv, on_done, d);
    for (int i = 0; i < N_KEYS; i++)
        free(keys[i]);
}
