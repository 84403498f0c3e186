/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/command/redis.h"

#include "proto/base/mem.h"
#include "proto/base64.h"
#include "proto/message.h"
#include "worker/command/command.h"
#include "worker/command/progress.h"
#include "worker/config/text_list.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The dead-letter lists. The one idea: a letter is known by its whole text, so what is put back or
 * thrown away is exactly what was read, whatever others do meanwhile; numbers, oldest first, are
 * only names for people.
 *
 * Putting back is one script: a kill -9 before it leaves the letter, after it the message is in its
 * queue, byte for byte as it came. */

enum { PAGE = 500 };

static struct redis_script retry_script = {
    .body = "local kind = redis.call('TYPE', KEYS[2]).ok\n"
            "if kind ~= 'none' and kind ~= 'list' then\n"
            "  return redis.error_reply('WRONGTYPE of key ' .. KEYS[2]) end\n"
            "if redis.call('LREM', KEYS[1], -1, ARGV[1]) == 0 then return 0 end\n"
            "redis.call('LPUSH', KEYS[2], ARGV[2])\n"
            "return 1"};

struct letter {
    struct slice raw;
    cJSON *about;
    struct buf text; /* the message as it came */
    struct message message;
    const char *queue; /* borrowed of struct dead */
    int number;        /* in its queue, oldest 1 */
    bool chosen;
};

struct dead {
    struct options *o;
    struct command_redis redis;
    char **queues;
    struct progress progress;
    struct letter *letters;
    int n, n_queues;
    size_t n_read; /* of the page */
};

/* --- reading --- */

static char *dead_key(const struct dead *d, const char *queue)
{
    const char *prefix = d->o->settings.global_keyprefix;
    return mem_printf("%s{%s}.cworker.dead", prefix ? prefix : "", queue);
}

static void letter_read(struct letter *l)
{
    l->about = json_parse(l->raw.at, l->raw.size, NULL);
    l->text = BUF_INIT(SIZE_MAX / 4);
    const char *text = json_get_string(l->about, "message");
    const char *encoding = json_get_string(l->about, "encoding");
    if (!text)
        return;
    if (encoding && strcmp(encoding, "base64") == 0) {
        base64_decode(slice_of(text), &l->text);
    } else {
        char *quoted = json_text(json_get(l->about, "message"));
        json_unquote(slice_of(quoted), &l->text);
        free(quoted);
    }
    struct message_limits limits = {0};
    message_decode(mem_ndup(l->text.data ? l->text.data : "", l->text.size), l->text.size, &limits,
                   &l->message, NULL);
}

/* A page comes newest first; letters are kept oldest first. */
static void page_read(const redisReply *reply, void *arg)
{
    struct dead *d = arg;
    d->n_read = reply->type == REDIS_REPLY_ARRAY ? reply->elements : 0;
    d->letters = mem_realloc(d->letters, ((size_t)d->n + d->n_read + 1) * sizeof *d->letters);
    for (size_t i = d->n_read; i-- > 0;) {
        const redisReply *raw = reply->element[i];
        struct letter *l = &d->letters[d->n++];
        *l = (struct letter){.raw = {mem_ndup(raw->str, raw->len), raw->len}};
        letter_read(l);
    }
}

static int queue_read(struct dead *d, const char *queue)
{
    char *key = dead_key(d, queue);
    int first = d->n;
    int64_t length;
    int status = command_redis_ask(&d->redis, &length, 2,
                                   (struct slice[]){slice_of("LLEN"), slice_of(key)});
    d->progress.total += length;
    d->n_read = PAGE;
    while (status == 0 && d->n_read == PAGE) {
        char from[24], to[24];
        snprintf(from, sizeof from, "%d", -(d->n - first) - PAGE);
        snprintf(to, sizeof to, "%d", -(d->n - first) - 1);
        status = command_redis_read(&d->redis, page_read, d, 4,
                                    (struct slice[]){slice_of("LRANGE"), slice_of(key),
                                                     slice_of(from), slice_of(to)});
        progress_add(&d->progress, (int64_t)d->n_read);
    }
    for (int i = first; i < d->n; i++) {
        d->letters[i].queue = queue;
        d->letters[i].number = i - first + 1;
    }
    free(key);
    return status;
}

/* The queues of -Q or the settings; without either, all that have letters. */
static int queues_find(struct dead *d)
{
    int status = 0;
    if (d->o->settings.task_queues) {
        int n = 0;
        while (d->o->queues[n])
            n++;
        d->queues = mem_zalloc(((size_t)n + 1) * sizeof *d->queues);
        for (int i = 0; i < n; i++)
            d->queues[i] = mem_dup(d->o->queues[i]);
    } else {
        status = command_redis_keys(&d->redis, &d->o->settings, "{*}.cworker.dead", &d->queues);
        char **kept = d->queues;
        for (char **at = d->queues; at && *at; at++) {
            memmove(*at, *at + 1, strlen(*at));
            (*at)[strlen(*at) - strlen("}.cworker.dead")] = '\0';
            if (text_list_has(d->o->excluded, *at))
                free(*at);
            else
                *kept++ = *at;
        }
        if (kept)
            *kept = NULL;
    }
    return status;
}

static int letters_load(struct dead *d)
{
    int status = queues_find(d);
    progress_begin(&d->progress, d->o, "Reading", 0);
    for (char **queue = d->queues; status == 0 && queue && *queue; queue++, d->n_queues++)
        status = queue_read(d, *queue);
    progress_end(&d->progress);
    return status;
}

static void letters_free(struct dead *d)
{
    for (int i = 0; i < d->n; i++) {
        free((char *)d->letters[i].raw.at);
        cJSON_Delete(d->letters[i].about);
        buf_done(&d->letters[i].text);
        message_done(&d->letters[i].message);
    }
    free(d->letters);
    command_keys_free(d->queues);
}

/* --- choosing --- */

static bool is_number(const char *word)
{
    size_t n = strspn(word, "0123456789");
    return n && n < 10 && !word[n];
}

static int choose_word(struct dead *d, const char *word)
{
    int n = 0;
    for (int i = 0; i < d->n; i++) {
        struct letter *l = &d->letters[i];
        bool fits = is_number(word) ? l->number == strtol(word, NULL, 10)
                                    : l->message.id && strcmp(l->message.id, word) == 0;
        l->chosen = l->chosen || fits;
        n += fits;
    }
    if (n == 0) {
        fprintf(stderr, "cworker dead: no letter has the %s %s\n",
                is_number(word) ? "number" : "id", word);
        return 1;
    }
    if (n > 1 && is_number(word))
        return command_usage(d->o, "number %s is in %d queues: say which one by -Q", word, n);
    return 0;
}

/* By words behind the action, or --all. */
static int choose(struct dead *d)
{
    bool all = command_flag(d->o, "all");
    if (!all && !command_word(d->o, 1))
        return command_usage(d->o, "which ones? Say numbers or ids, or --all");
    if (all && command_word(d->o, 1))
        return command_usage(d->o, "--all and single letters contradict each other");
    for (int i = 0; all && i < d->n; i++)
        d->letters[i].chosen = true;
    int status = 0;
    for (int i = 1; status == 0 && command_word(d->o, i); i++)
        status = choose_word(d, command_word(d->o, i));
    return status;
}

/* --- printing --- */

static char *shown(const char *text)
{
    return command_clean(text && *text ? text : "-", true);
}

static char *shown_of(const struct letter *l, const char *name)
{
    return shown(json_get_string(l->about, name));
}

static cJSON *letter_json(const struct letter *l, bool whole)
{
    cJSON *out = cJSON_CreateObject();
    const char *const copied[] = {"at", "reason", "worker"};
    cJSON_AddStringToObject(out, "queue", l->queue);
    cJSON_AddItemToObject(out, "number", json_int(l->number));
    for (size_t i = 0; i < sizeof copied / sizeof *copied; i++) {
        const char *text = json_get_string(l->about, copied[i]);
        cJSON_AddItemToObject(out, copied[i],
                              text ? cJSON_CreateString(text) : cJSON_CreateNull());
    }
    cJSON_AddItemToObject(out, "id", l->message.id ? cJSON_CreateString(l->message.id)
                                                   : cJSON_CreateNull());
    cJSON_AddItemToObject(out, "task", l->message.task ? cJSON_CreateString(l->message.task)
                                                       : cJSON_CreateNull());
    cJSON *message = cJSON_Duplicate(json_get(l->about, "message"), true);
    cJSON_AddItemToObject(out, "message", message ? message : cJSON_CreateNull());
    if (json_get(l->about, "encoding"))
        cJSON_AddStringToObject(out, "encoding", "base64");
    if (whole)
        cJSON_AddItemToObject(out, "body",
                              json_parse(l->message.body.at, l->message.body.size, NULL));
    return out;
}

static int print_json(const struct dead *d, bool whole)
{
    cJSON *list = cJSON_CreateArray();
    for (int i = 0; i < d->n; i++)
        if (!whole || d->letters[i].chosen)
            cJSON_AddItemToArray(list, letter_json(&d->letters[i], whole));
    char *text = json_text(list);
    puts(text);
    free(text);
    cJSON_Delete(list);
    return 0;
}

static void print_row(const struct letter *l)
{
    char *queue = shown(l->queue), *at = shown_of(l, "at"), *id = shown(l->message.id),
         *task = shown(l->message.task), *reason = shown_of(l, "reason");
    printf("%6d  %-20s  %-19.19s  %-36s  %-28s  %s\n", l->number, queue, at, id, task, reason);
    free(queue);
    free(at);
    free(id);
    free(task);
    free(reason);
}

static int act_list(struct dead *d)
{
    if (command_word(d->o, 1))
        return command_usage(d->o, "unexpected argument \"%.60s\" after list",
                             command_word(d->o, 1));
    if (command_flag(d->o, "json"))
        return print_json(d, false);
    if (d->n == 0) {
        puts("No dead letters.");
        return 0;
    }
    printf("%6s  %-20s  %-19s  %-36s  %-28s  %s\n", "NUMBER", "QUEUE", "SINCE (UTC)", "ID", "TASK",
           "REASON");
    for (int i = 0; i < d->n; i++)
        print_row(&d->letters[i]);
    return 0;
}

/* Takes text. */
static void print_field(const char *name, char *text)
{
    printf("  %-8s %s\n", name, text);
    free(text);
}

static void print_letter(const struct letter *l)
{
    char *queue = shown(l->queue);
    printf("Letter %d of queue %s\n", l->number, queue);
    free(queue);
    print_field("since:", shown_of(l, "at"));
    print_field("reason:", shown_of(l, "reason"));
    print_field("worker:", shown_of(l, "worker"));
    print_field("id:", shown(l->message.id));
    print_field("task:", shown(l->message.task));
    if (l->message.body.at)
        printf("  body:    %.*s\n", (int)l->message.body.size, l->message.body.at);
    char *message = json_text(json_get(l->about, "message"));
    printf("  message: %s\n", message);
    free(message);
}

static int act_show(struct dead *d)
{
    int status = choose(d);
    if (status != 0)
        return status;
    if (command_flag(d->o, "json"))
        return print_json(d, true);
    for (int i = 0; i < d->n; i++)
        if (d->letters[i].chosen)
            print_letter(&d->letters[i]);
    return 0;
}

/* --- moving --- */

/* Where Kombu files it; an element that is no envelope has priority 0. */
static char *target_key(const struct dead *d, const struct letter *l)
{
    int64_t priority = 0;
    cJSON *envelope = json_parse(l->text.data ? l->text.data : "", l->text.size, NULL);
    json_as_int(json_get(json_get(envelope, "properties"), "priority"), &priority);
    cJSON_Delete(envelope);
    priority = priority < 0 ? 0 : priority > 9 ? 9 : priority;
    return command_queue_key(&d->o->settings, l->queue,
                             command_queue_step(&d->o->settings, (int)priority));
}

static int letter_retry(struct dead *d, const struct letter *l, int64_t *ret_n)
{
    *ret_n = 0;
    if (!cJSON_IsString(json_get(l->about, "message"))) {
        fprintf(stderr, "cworker dead: letter %d of queue %s holds no message\n", l->number,
                l->queue);
        return 0;
    }
    char *key = dead_key(d, l->queue), *target = target_key(d, l);
    int status = command_redis_ask_script(
        &d->redis, ret_n, &retry_script, 2, 4,
        (struct slice[]){slice_of(key), slice_of(target), l->raw, {l->text.data, l->text.size}});
    free(key);
    free(target);
    return status;
}

static int letter_purge(struct dead *d, const struct letter *l, int64_t *ret_n)
{
    char *key = dead_key(d, l->queue);
    int status = command_redis_ask(&d->redis, ret_n, 4,
                                   (struct slice[]){slice_of("LREM"), slice_of(key),
                                                    slice_of("-1"), l->raw});
    free(key);
    return status;
}

static bool confirmed(int n)
{
    printf("WARNING: this throws %d dead letter%s away. It cannot be undone. (-f does not ask.)\n\n"
           "Throw them away? [y/N]: ",
           n, n == 1 ? "" : "s");
    fflush(stdout);
    char answer[16] = "";
    bool yes = fgets(answer, sizeof answer, stdin) && (answer[0] == 'y' || answer[0] == 'Y') &&
               strchr("\nEe", answer[1]);
    if (!yes)
        puts("Aborted!");
    return yes;
}

static int count_chosen(const struct dead *d)
{
    int n = 0;
    for (int i = 0; i < d->n; i++)
        n += d->letters[i].chosen;
    return n;
}

static int act_on_chosen(struct dead *d,
                         int (*act)(struct dead *, const struct letter *, int64_t *),
                         const char *doing, const char *done)
{
    int64_t n_done = 0, n_chosen = count_chosen(d), one;
    int status = 0;
    progress_begin(&d->progress, d->o, doing, n_chosen);
    for (int i = 0; status == 0 && i < d->n; i++) {
        if (!d->letters[i].chosen)
            continue;
        status = act(d, &d->letters[i], &one);
        n_done += one;
        progress_add(&d->progress, 1);
    }
    progress_end(&d->progress);
    if (command_flag(d->o, "json"))
        printf("{\"%s\": %lld}\n", act == letter_retry ? "retried" : "purged", (long long)n_done);
    else
        printf("%s %lld message%s.\n", done, (long long)n_done, n_done == 1 ? "" : "s");
    return status ? status : n_done < n_chosen;
}

static int act_retry(struct dead *d)
{
    int status = choose(d);
    return status ? status : act_on_chosen(d, letter_retry, "Putting back", "Put back");
}

static int act_purge(struct dead *d)
{
    int status = choose(d), n = count_chosen(d);
    if (status != 0)
        return status;
    if (n && !command_flag(d->o, "force") && !confirmed(n))
        return 1;
    return act_on_chosen(d, letter_purge, "Purging", "Purged");
}

int command_dead(struct options *o)
{
    static const struct {
        const char *name;
        int (*act)(struct dead *);
    } actions[] = {
        {"list", act_list}, {"show", act_show}, {"retry", act_retry}, {"purge", act_purge}};
    const char *word = command_word(o, 0);
    for (size_t i = 0; i < sizeof actions / sizeof *actions; i++) {
        if (strcmp(word ? word : "list", actions[i].name) != 0)
            continue;
        struct dead d = {.o = o};
        int status = command_redis_open(&d.redis, o);
        if (status == 0)
            status = letters_load(&d);
        if (status == 0)
            status = actions[i].act(&d);
        command_redis_close(&d.redis);
        letters_free(&d);
        return status;
    }
    return command_usage(o, "\"%.40s\" is none of list, show, retry and purge", word);
}
