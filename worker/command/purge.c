/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/command/redis.h"

#include "proto/base/mem.h"
#include "worker/command/command.h"
#include "worker/command/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Empties queues. Counting and deleting are one script for each list, so that the number printed is
 * the number thrown away, whatever producers do meanwhile. */

static struct redis_script purge_script = {
    .body = "local n = redis.call('LLEN', KEYS[1]) redis.call('UNLINK', KEYS[1]) return n"};

static int purge_queue(struct command_redis *c, const struct settings *s, const char *queue,
                       int64_t *n_total)
{
    int n_steps = 0;
    while (s->priority_steps && s->priority_steps[n_steps])
        n_steps++;
    /* The plain key exists whatever the steps are: a producer without priorities uses it. */
    int first = n_steps && strcmp(s->priority_steps[0], "0") == 0 ? 0 : -1;
    for (int step = first; step < n_steps; step++) {
        const char *prefix = s->global_keyprefix ? s->global_keyprefix : "";
        char *key =
            step < 0 ? mem_printf("%s%s", prefix, queue) : command_queue_key(s, queue, step);
        struct slice keys[] = {slice_of(key)};
        int64_t n = 0;
        int status = command_redis_ask_script(c, &n, &purge_script, 1, 1, keys);
        free(key);
        if (status != 0)
            return status;
        *n_total += n;
    }
    return 0;
}

static int count_queues(const struct options *o)
{
    int n = 0;
    while (o->queues[n])
        n++;
    return n;
}

static bool confirmed(const struct options *o)
{
    printf("WARNING: this throws all waiting tasks away, of %s",
           count_queues(o) == 1 ? "queue" : "queues");
    for (char **queue = o->queues; *queue; queue++)
        printf("%s %s", queue == o->queues ? "" : ",", *queue);
    printf(".\n         It cannot be undone. (-f does not ask.)\n\nThrow them away? [y/N]: ");
    fflush(stdout);
    char answer[16] = "";
    bool yes = fgets(answer, sizeof answer, stdin) &&
               (answer[0] == 'y' || answer[0] == 'Y') && strchr("\nEe", answer[1]);
    if (!yes)
        puts("Aborted!");
    return yes;
}

int command_purge_now(struct options *o)
{
    struct command_redis c;
    int64_t n_messages = 0;
    struct progress progress;
    int n_queues = count_queues(o), status = command_redis_open(&c, o);
    progress_begin(&progress, o, "Emptying queues", n_queues);
    for (int i = 0; i < n_queues && status == 0; i++) {
        status = purge_queue(&c, &o->settings, o->queues[i], &n_messages);
        progress_add(&progress, 1);
    }
    progress_end(&progress);
    command_redis_close(&c);
    if (status != 0)
        return status;
    const char *queues = n_queues == 1 ? "queue" : "queues";
    if (n_messages)
        printf("Purged %lld %s from %d known task %s.\n", (long long)n_messages,
               n_messages == 1 ? "message" : "messages", n_queues, queues);
    else
        printf("No messages purged from %d %s.\n", n_queues, queues);
    fflush(stdout);
    return 0;
}

int command_purge(struct options *o)
{
    if (command_word(o, 0))
        return command_usage(o, "unexpected argument \"%.60s\"; queues are given as -Q NAME",
                             command_word(o, 0));
    if (!command_flag(o, "force") && !confirmed(o))
        return 1;
    return command_purge_now(o);
}
