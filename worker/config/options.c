/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/config/options.h"

#include "proto/base/mem.h"
#include "worker/config/options_apply.h"
#include "worker/config/text_list.h"
#include "worker/pidfile.h"
#include "worker/version.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* From argv to struct options: read (options_read.c), applied (options_apply.c), and here what
 * follows from all of it together: the node's name, the queues, contradictions. */

/* %h %n %d, and in file names %p (the node) and %i, %I (which of the processes: all write to one
 * file). */
static char *expand(const char *text, const char *host, const char *name, const char *node)
{
    size_t first = strcspn(host, ".");
    struct buf out = BUF_INIT(4096);
    for (; *text; text++) {
        if (*text != '%' || !text[1]) {
            buf_char(&out, *text);
            continue;
        }
        switch (*++text) {
        case 'h':
            buf_str(&out, host);
            break;
        case 'n':
            buf_add(&out, name ? name : host, name ? strlen(name) : first);
            break;
        case 'd':
            buf_str(&out, host[first] ? host + first + 1 : "");
            break;
        case 'p':
            buf_str(&out, node ? node : "%p");
            break;
        case 'i':
            buf_str(&out, node ? "0" : "%i");
            break;
        case 'I':
            buf_str(&out, node ? "" : "%I");
            break;
        case '%':
            buf_char(&out, '%');
            break;
        default:
            buf_char(&out, '%');
            buf_char(&out, *text);
        }
    }
    return buf_take(&out);
}

/* As Celery reads it: without an @ it is the host, and either half may be left out. */
static char *node_name(const char *given, const char *host)
{
    const char *at = strchr(given, '@');
    size_t size = at ? (size_t)(at - given) : 0;
    const char *name = size ? given : "celery", *node = at ? at + 1 : given;
    char *whole = mem_printf("%.*s@%s", size ? (int)size : (int)strlen(name), name,
                             *node ? node : host);
    char *expanded = expand(whole, host, NULL, NULL);
    free(whole);
    return expanded;
}

static int make_hostname(struct options *o, const char *given)
{
    char host[256] = "localhost";
    gethostname(host, sizeof host - 1);
    o->hostname = node_name(given ? given : "", host);
    size_t size = strlen(o->hostname);
    for (const char *c = o->hostname; *c; c++)
        if ((unsigned char)*c <= ' ' || *c == 127)
            return options_usage("--hostname: a node name has no spaces in it");
    if (o->hostname[0] == '@' || o->hostname[size - 1] == '@' || size > 255)
        return options_usage("--hostname: a node name is HOST or NAME@HOST, at most 255 bytes");
    return 0;
}

static void expand_file(char **path, const char *node)
{
    if (!*path)
        return;
    const char *at = strchr(node, '@');
    char *name = mem_ndup(node, (size_t)(at - node));
    char *expanded = expand(*path, at + 1, name, node);
    free(name);
    free(*path);
    *path = expanded;
}

static int make_queues(struct options *o, const struct options_gathered *g,
                       const struct options_line *p)
{
    if (g->queues) {
        int code = options_apply_setting(o, "task_queues", g->queues, "--queues");
        if (code != 0)
            return code;
    }
    o->excluded = text_list_split(g->excluded, ", ");
    char *fallback[] = {o->settings.task_default_queue, NULL};
    for (char **at = o->settings.task_queues ? o->settings.task_queues : fallback; *at; at++)
        if (!text_list_has(o->excluded, *at) && !text_list_has(o->queues, *at))
            o->queues = text_list_add(o->queues, *at, strlen(*at));
    if (o->queues)
        return 0;
    if (o->settings.task_queues || !(p->command == COMMAND_dead || p->command == COMMAND_queues))
        return options_usage("--exclude-queues leaves no queue");
    o->queues = mem_zalloc(sizeof *o->queues);
    return 0;
}

/* Options first, then `--`, then the words: what getopt and command_value() can read without
 * knowing which options take a value. */
static void make_rest(struct options *o, const struct options_line *p)
{
    o->rest = mem_alloc(((size_t)p->n_given + (size_t)p->n_words + 2) * sizeof *o->rest);
    for (int i = 0; i < p->n_given; i++)
        if (p->given[i].row->kind == OPTION_REST) {
            const struct option_row *row = p->given[i].row;
            o->rest[o->n_rest++] = row->argument
                                       ? mem_printf("--%s=%s", row->name, p->given[i].value)
                                       : mem_printf("--%s", row->name);
        }
    o->rest[o->n_rest++] = mem_dup("--");
    for (int i = 0; i < p->n_words; i++)
        o->rest[o->n_rest++] = mem_dup(p->words[i]);
    o->rest[o->n_rest] = NULL;
}

/* A setting in a file may say what an option overrules; two options that contradict are a mistake.
 */
static int check_contradictions(const struct options *o, const struct options_line *p)
{
    const struct option_given *prefetch = options_given(p, OPTION_PREFETCH);
    if (prefetch && options_given(p, OPTION_NO_PREFETCH) && strtol(prefetch->value, NULL, 10) > 1)
        return options_usage(
            "--disable-prefetch and --prefetch-multiplier %s contradict each other",
            prefetch->value);
    if (p->command == COMMAND_worker && o->autoscale.max &&
        strcmp(o->settings.worker_pool, "solo") == 0)
        return options_usage("--autoscale: the pool solo runs one task at a time");
    if (p->command == COMMAND_worker && p->n_words)
        return options_usage("unexpected argument \"%.60s\"; queues are given as -Q NAME",
                             p->words[0]);
    return 0;
}

/* It is written to on the day when the result store is down: too late to hear of a mistake. */
static int check_spool(const char *folder)
{
    char *inside = folder ? mem_printf("%s/.", folder) : NULL;
    int code = inside && access(inside, W_OK) != 0
                   ? options_usage("result_spool_dir: %s: %s", folder, strerror(errno))
                   : 0;
    free(inside);
    return code;
}

static int finish_worker(struct options *o)
{
    o->settings.worker_concurrency =
        o->autoscale.max ? o->autoscale.min : settings_concurrency(&o->settings);
    pid_t owner = o->pidfile ? pidfile_owner(o->pidfile) : 0;
    if (owner) {
        fprintf(stderr, "cworker: pid file %s exists already and process %d is running\n",
                o->pidfile, (int)owner);
        return OPTIONS_EXIT + EXIT_PIDFILE;
    }
    int code = check_spool(o->settings.result_spool_dir);
    if (code != 0)
        return code;
    if (o->settings.ignored && !o->quiet)
        fprintf(stderr, "cworker: settings without effect here: %s\n", o->settings.ignored);
    return 0;
}

static int finish(struct options *o, const struct options_gathered *g, const struct options_line *p)
{
    struct error err = {0};
    o->apps = text_list_split(g->apps, ", ");
    int code = make_hostname(o, g->hostname);
    if (code == 0)
        code = make_queues(o, g, p);
    if (code == 0 && settings_check(&o->settings, &err) < 0)
        code = options_usage("%s", err.text);
    if (code == 0)
        code = check_contradictions(o, p);
    if (code != 0)
        return code;
    expand_file(&o->logfile, o->hostname);
    expand_file(&o->pidfile, o->hostname);
    expand_file(&o->settings.worker_state_db, o->hostname);
    make_rest(o, p);
    return p->command == COMMAND_worker ? finish_worker(o) : 0;
}

int options_parse(struct options *o, int argc, char **argv)
{
    memset(o, 0, sizeof *o);
    o->heartbeat = 2;
    settings_init(&o->settings);
    o->loglevel = LOG_WARNING;
    struct options_line p = {0};
    struct options_gathered g = {0};
    int code = options_read(&p, argc, argv);
    if (code == 0 && options_given(&p, OPTION_HELP)) {
        help_print(p.named ? p.command : -1);
        code = OPTIONS_EXIT;
    } else if (code == 0 && options_given(&p, OPTION_VERSION)) {
        printf("cworker %s\n", CWORKER_VERSION);
        code = OPTIONS_EXIT;
    } else if (code == 0) {
        o->command = command_names[p.command];
        code = options_apply(o, &g, &p);
        if (code == 0)
            code = finish(o, &g, &p);
    }
    free(g.queues);
    free(g.excluded);
    free(g.apps);
    free(g.hostname);
    free(p.given);
    free(p.words);
    if (code != 0)
        options_done(o);
    return code;
}

void options_done(struct options *o)
{
    settings_done(&o->settings);
    text_list_free(o->apps);
    text_list_free(o->queues);
    text_list_free(o->excluded);
    text_list_free(o->rest);
    free(o->hostname);
    free(o->logfile);
    free(o->pidfile);
    memset(o, 0, sizeof *o);
}
