/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/redis_private.h"

#include "proto/base/mem.h"
#include "proto/digest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Lua by its sum: EVALSHA first, the whole text once Redis says that it does not know it. The
 * arguments are kept until then. */

struct script_run {
    struct redis *r;
    struct redis_script *script;
    redis_reply_fn *fn;
    void *arg;
    bool repeated;
    int argc; /* EVALSHA, sha, number of keys, keys and arguments */
    struct slice argv[];
};

static void script_answer(const redisReply *reply, void *arg);

static void script_sha(struct redis_script *script)
{
    if (!*script->sha)
        digest_sha1(slice_of(script->body), script->sha);
}

/* Once more with the whole text: Redis then knows it by its sum. */
static bool script_repeat(struct script_run *run)
{
    const char *body = run->script->body;
    if (run->r->plain_scripts && strncmp(body, "#!", 2) == 0)
        body += strcspn(body, "\n");
    run->argv[0] = slice_of("EVAL");
    run->argv[1] = slice_of(body);
    return redis_send(run->r, script_answer, run, run->argc, run->argv) == 0;
}

static void script_answer(const redisReply *reply, void *arg)
{
    struct script_run *run = arg;
    if (reply && reply->type == REDIS_REPLY_ERROR) {
        bool unknown = strncmp(reply->str, "NOSCRIPT", 8) == 0;
        bool too_old = strstr(reply->str, "compiling script") && !run->r->plain_scripts;
        if (too_old)
            run->r->plain_scripts = true;
        if ((too_old || (unknown && !run->repeated)) && script_repeat(run)) {
            run->repeated = true;
            return;
        }
    }
    if (run->fn)
        run->fn(reply, run->arg);
    free(run);
}

/* A run with room for `size` bytes behind its arguments, of which the first three are set. */
static struct script_run *run_new(struct redis *r, struct redis_script *script, int n_keys,
                                  int argc, size_t size)
{
    char keys[16];
    size_t n = (size_t)snprintf(keys, sizeof keys, "%d", n_keys);
    script_sha(script);
    struct script_run *run =
        mem_alloc(sizeof *run + (size_t)(argc + 3) * sizeof *run->argv + n + size);
    *run = (struct script_run){.r = r, .script = script, .argc = argc + 3};
    run->argv[0] = slice_of("EVALSHA");
    run->argv[1] = (struct slice){script->sha, 40};
    run->argv[2] = (struct slice){(char *)(run->argv + argc + 3), n};
    memcpy(run->argv + argc + 3, keys, n);
    return run;
}

static void run_start(struct script_run *run, redis_reply_fn *fn, void *arg)
{
    run->fn = fn;
    run->arg = arg;
    if (run->r->plain_scripts) {
        run->repeated = true;
        script_repeat(run);
    } else {
        redis_command(run->r, script_answer, run, run->argc, run->argv);
    }
}

int redis_run(struct redis *r, struct redis_script *script, redis_reply_fn *fn, void *arg,
              int n_keys, int argc, const struct slice *argv)
{
    if (r->state != STATE_UP)
        return ERROR_UNAVAILABLE;
    size_t size = 0;
    for (int i = 0; i < argc; i++)
        size += argv[i].size;
    struct script_run *run = run_new(r, script, n_keys, argc, size);
    char *at = (char *)run->argv[2].at + run->argv[2].size;
    for (int i = 0; i < argc; i++) {
        run->argv[3 + i] = (struct slice){at, argv[i].size};
        if (argv[i].size)
            at = mempcpy(at, argv[i].at, argv[i].size);
    }
    run_start(run, fn, arg);
    return 0;
}

int redis_run_kept(struct redis *r, struct redis_script *script, redis_reply_fn *fn, void *arg,
                   int n_keys, int argc, const struct slice *argv)
{
    if (r->state != STATE_UP)
        return ERROR_UNAVAILABLE;
    struct script_run *run = run_new(r, script, n_keys, argc, 0);
    memcpy(run->argv + 3, argv, (size_t)argc * sizeof *argv);
    run_start(run, fn, arg);
    return 0;
}
