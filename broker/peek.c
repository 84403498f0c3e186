/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/channel_private.h"

#include "proto/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A look at what waits for its time, for inspection. The one idea: it is one script that only
 * reads, and stops at a bound, because a million tasks may wait. */

struct peek {
    channel_delayed_fn *fn;
    void *arg;
    const char **queues; /* as they were when it was asked: names live as long as the channel */
};

/* KEYS delayed set and hash of each queue. ARGV most entries, most bytes. Triples: index of the
 * queue, due time, element. */
static struct redis_script script_peek = {
    .body = "local out, bytes, most, room = {}, 0, tonumber(ARGV[1]), tonumber(ARGV[2])\n"
            "for q = 1, #KEYS, 2 do\n"
            "  local due = redis.call('ZRANGE', KEYS[q], 0, most - 1, 'WITHSCORES')\n"
            "  for i = 1, #due, 2 do\n"
            "    if #out >= most * 3 or bytes > room then return out end\n"
            "    local value = redis.call('HGET', KEYS[q + 1], due[i])\n"
            "    local from = value and string.match(value, '^1 %d+ ()')\n"
            "    if from then\n"
            "      out[#out + 1] = (q - 1) / 2\n"
            "      out[#out + 1] = due[i + 1]\n"
            "      out[#out + 1] = string.sub(value, from)\n"
            "      bytes = bytes + #value\n"
            "    end\n"
            "  end\n"
            "end\n"
            "return out"};

enum { PEEK_BYTES = 4 << 20 };

static size_t entries_read(const struct peek *p, const redisReply *reply,
                           struct delayed_entry *entries)
{
    size_t n = 0;
    for (size_t i = 0; i + 2 < reply->elements; i += 3) {
        const redisReply *due = reply->element[i + 1], *text = reply->element[i + 2];
        if (due->type != REDIS_REPLY_STRING || text->type != REDIS_REPLY_STRING)
            continue;
        entries[n++] = (struct delayed_entry){p->queues[reply->element[i]->integer],
                                              (int64_t)strtod(due->str, NULL),
                                              {text->str, text->len}};
    }
    return n;
}

static void peek_answered(const redisReply *reply, void *arg)
{
    struct peek *p = arg;
    if (reply && reply->type == REDIS_REPLY_ARRAY) {
        struct delayed_entry *entries = mem_alloc((reply->elements / 3 + 1) * sizeof *entries);
        p->fn(0, entries, entries_read(p, reply, entries), p->arg);
        free(entries);
    } else {
        p->fn(ERROR_UNAVAILABLE, NULL, 0, p->arg);
    }
    free(p->queues);
    free(p);
}

int channel_peek_delayed(struct channel *c, size_t most, channel_delayed_fn *fn, void *arg)
{
    struct peek *p = mem_alloc(sizeof *p);
    *p = (struct peek){fn, arg, channel_queues(c)};
    struct argument_list list = {.bytes = BUF_INIT(1 << 24)};
    for (const char **queue = p->queues; *queue; queue++) {
        char *set = mem_printf("%s{%s}.cworker.delayed", c->prefix, *queue);
        char *hash = mem_printf("%s.msg", set);
        arguments_text(&list, set);
        arguments_text(&list, hash);
        free(set);
        free(hash);
    }
    list.n_keys = list.n;
    char number[24];
    snprintf(number, sizeof number, "%zu", most);
    arguments_text(&list, number);
    snprintf(number, sizeof number, "%d", PEEK_BYTES);
    arguments_text(&list, number);
    int code = redis_run(c->redis, &script_peek, peek_answered, p, list.n_keys, list.n,
                         arguments_seal(&list));
    arguments_done(&list);
    if (code < 0) {
        free(p->queues);
        free(p);
    }
    return code;
}
