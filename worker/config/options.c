/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/config/options.h"

#include "proto/base/mem.h"
#include "worker/config/options_read.h"
#include "worker/pidfile.h"
#include "worker/version.h"

#include <ctype.h>
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

/* Reading is done in two steps, because what stands first does not count first: the command line is
 * collected into a list of given options, and then everything is applied from the weakest to the
 * strongest: file, environment, --set, command line. Values may hold passwords, so no message
 * repeats more of the command line than an option's name. */

/* --- applying it
 * ------------------------------------------------------------------------------------- */

/* "a,b" with what is there already. */
static void list_join(char **list, const char *value)
{
    char *joined = *list ? mem_printf("%s,%s", *list, value) : mem_dup(value);
    free(*list);
    *list = joined;
}

static char **list_add(char **list, const char *text, size_t size)
{
    int n = 0;
    while (list && list[n])
        n++;
    list = mem_realloc(list, ((size_t)n + 2) * sizeof *list);
    list[n] = mem_ndup(text, size);
    list[n + 1] = NULL;
    return list;
}

static char **list_split(const char *text)
{
    char **list = NULL;
    while (text && *text) {
        text += strspn(text, ", ");
        size_t size = strcspn(text, ", ");
        if (size)
            list = list_add(list, text, size);
        text += size;
    }
    return list;
}

static bool list_has(char **list, const char *text)
{
    for (; list && *list; list++)
        if (strcmp(*list, text) == 0)
            return true;
    return false;
}

static void list_free(char **list)
{
    for (char **at = list; at && *at; at++)
        free(*at);
    free(list);
}

/* What is gathered over several options before it means something. */
struct gathered {
    char *queues, *excluded, *apps, *hostname;
};

static int apply_setting(struct options *o, const char *setting, const char *value,
                         const char *origin)
{
    struct error err = {0};
    if (settings_set(&o->settings, setting, value, &err) == 0)
        return 0;
    return options_usage("%s: %s", origin, err.text);
}

static int apply_set(struct options *o, const char *value)
{
    const char *equals = strchr(value, '=');
    if (!equals || equals == value)
        return options_usage("--set needs NAME=VALUE, as in --set task_acks_late=true");
    char *name = mem_ndup(value, (size_t)(equals - value));
    int code = apply_setting(o, name, equals + 1, "--set");
    free(name);
    return code;
}

static int apply_loglevel(struct options *o, const char *value, const char *origin)
{
    if (log_level_parse(value, &o->loglevel) == 0)
        return 0;
    return options_usage("%s: \"%.40s\" is none of: debug info warning error critical fatal",
                         origin, value);
}

static int apply_umask(const char *value, const char *origin)
{
    char *end;
    unsigned long mask = strtoul(value, &end, 8);
    if (*end || end == value || mask > 0777)
        return options_usage("%s: \"%.20s\" is no octal mask like 022", origin, value);
    umask((mode_t)mask);
    return 0;
}

/* Staying the user that one is already can be promised; anything else is the service manager's. */
static int apply_user(const char *value, const char *origin)
{
    const struct passwd *user = getpwuid(geteuid());
    char number[24];
    snprintf(number, sizeof number, "%u", (unsigned)geteuid());
    if (strcmp(value, number) == 0 || (user && strcmp(value, user->pw_name) == 0))
        return 0;
    return options_usage(
        "%s: cworker does not change its user; start it as %.40s (User= of systemd, runuser)",
        origin, value);
}

static int apply_group(const char *value, const char *origin)
{
    const struct group *group = getgrgid(getegid());
    char number[24];
    snprintf(number, sizeof number, "%u", (unsigned)getegid());
    if (strcmp(value, number) == 0 || (group && strcmp(value, group->gr_name) == 0))
        return 0;
    return options_usage(
        "%s: cworker does not change its group; start it in %.40s (Group= of systemd)", origin,
        value);
}

static int apply_app(struct gathered *g, const char *value, const char *origin)
{
    int code = 0;
    char **apps = list_split(value);
    for (char **app = apps; app && *app && code == 0; app++)
        if (!strchr(*app, '/') && !strstr(*app, ".so"))
            code = options_usage(
                "%s: \"%.60s\" looks like a Python module; cworker loads shared objects with C "
                "tasks, as in -A ./libmytasks.so",
                origin, *app);
    list_free(apps);
    list_join(&g->apps, value);
    return code;
}

static int apply_heartbeat(struct options *o, const char *value, const char *origin)
{
    char *end;
    double seconds = strtod(value, &end);
    if (end == value || *end || !(seconds >= 0) || seconds > 86400)
        return options_usage("%s: \"%.20s\" is not a number of seconds", origin, value);
    if (seconds > 0) /* Celery's 0: the default */
        o->heartbeat = seconds;
    return 0;
}

static void text_replace(char **text, const char *value)
{
    free(*text);
    *text = mem_dup(value);
}

/* Options that are only kept, for finish() or for main. */
static void gather(struct options *o, struct gathered *g, enum option_kind kind, const char *value)
{
    switch (kind) {
    case OPTION_QUEUES:
        list_join(&g->queues, value);
        break;
    case OPTION_EXCLUDE:
        list_join(&g->excluded, value);
        break;
    case OPTION_HOSTNAME:
        text_replace(&g->hostname, value);
        break;
    case OPTION_LOGFILE:
        text_replace(&o->logfile, value);
        break;
    case OPTION_PIDFILE:
        text_replace(&o->pidfile, value);
        break;
    case OPTION_QUIET:
        o->quiet = true;
        break;
    case OPTION_NO_ALIAS:
        o->no_alias = true;
        break;
    case OPTION_PURGE:
        o->purge = true;
        break;
    case OPTION_DETACH:
        o->detach = true;
        break;
    case OPTION_NO_MINGLE:
        o->without_mingle = true;
        break;
    case OPTION_NO_GOSSIP:
        o->without_gossip = true;
        break;
    case OPTION_NO_HEARTBEAT:
        o->without_heartbeat = true;
        break;
    default: /* without effect, seen to before, or the command's own */
        break;
    }
}

static int apply(struct options *o, struct gathered *g, const struct option_row *row,
                 const char *value, const char *origin)
{
    switch (row->kind) {
    case OPTION_SETTING:
        return apply_setting(o, row->target, value, origin);
    case OPTION_PREFETCH: /* Celery's 0 on the command line: as the setting says */
        return strcmp(value, "0") == 0
                   ? 0
                   : apply_setting(o, "worker_prefetch_multiplier", value, origin);
    case OPTION_AUTOSCALE:
        return autoscale_parse(value, &o->autoscale)
                   ? 0
                   : options_usage("%s: \"%.40s\" is no range: write --autoscale MAX,MIN", origin,
                                   value);
    case OPTION_NO_PREFETCH:
        return apply_setting(o, "worker_prefetch_multiplier", "1", origin);
    case OPTION_NO_COLOR:
        return apply_setting(o, "worker_log_color", "false", origin);
    case OPTION_SET:
        return apply_set(o, value);
    case OPTION_LOGLEVEL:
        return apply_loglevel(o, value, origin);
    case OPTION_UMASK:
        return apply_umask(value, origin);
    case OPTION_USER:
        return apply_user(value, origin);
    case OPTION_GROUP:
        return apply_group(value, origin);
    case OPTION_HEARTBEAT:
        return apply_heartbeat(o, value, origin);
    case OPTION_APP:
        return apply_app(g, value, origin);
    case OPTION_OPTIMIZATION:
        if (strcmp(value, "default") != 0 && strcmp(value, "fair") != 0)
            return options_usage("%s: \"%.20s\" is neither default nor fair", origin, value);
        return 0;
    case OPTION_REFUSED:
        return options_usage("%s: %s", origin, row->help);
    default:
        gather(o, g, row->kind, value);
        return 0;
    }
}

static bool is_true(const char *value)
{
    return strcasecmp(value, "true") == 0 || strcasecmp(value, "yes") == 0 ||
           strcasecmp(value, "on") == 0 || strcmp(value, "1") == 0;
}

/* CELERY_WORKER_<OPTION>, where the command line does not say it itself. */
static int apply_environment(struct options *o, struct gathered *g, const struct options_line *p)
{
    for (int i = 0; i < n_option_rows; i++) {
        const struct option_row *row = &option_rows[i];
        if (!(row->scope & IN_worker) || row->kind == OPTION_HELP || row->kind == OPTION_VERSION ||
            (row->kind != OPTION_SETTING && options_given(p, row->kind)))
            continue;
        char variable[80];
        int size = snprintf(variable, sizeof variable, "CELERY_WORKER_%s", row->name);
        for (int c = 0; c < size; c++)
            variable[c] = variable[c] == '-' ? '_' : (char)toupper((unsigned char)variable[c]);
        const char *value = getenv(variable);
        if (!value || !*value || (!row->argument && !is_true(value)))
            continue;
        int code = apply(o, g, row, row->argument ? value : "true", variable);
        if (code != 0)
            return code;
    }
    return 0;
}

static int apply_given(struct options *o, struct gathered *g, const struct options_line *p,
                       bool sets)
{
    for (int i = 0; i < p->n_given; i++) {
        const struct option_given *given = &p->given[i];
        if ((given->row->kind == OPTION_SET) != sets)
            continue;
        char origin[40];
        snprintf(origin, sizeof origin, "--%s", given->row->name);
        int code = apply(o, g, given->row, given->value, origin);
        if (code != 0)
            return code;
    }
    return 0;
}

static int apply_config(struct options *o, const struct options_line *p)
{
    const struct option_given *config = options_given(p, OPTION_CONFIG);
    const char *path = config ? config->value : getenv("CWORKER_CONFIG");
    struct error err = {0};
    if (path && *path && settings_load_file(&o->settings, path, &err) < 0)
        return options_usage("%s: %s", config ? "--config" : "CWORKER_CONFIG", err.text);
    if (settings_load_environment(&o->settings, &err) < 0)
        return options_usage("%s", err.text);
    return 0;
}

static int apply_all(struct options *o, struct gathered *g, const struct options_line *p)
{
    const struct option_given *folder = options_given(p, OPTION_WORKDIR);
    if (folder && chdir(folder->value) != 0)
        return options_usage("--workdir: %s: %s", folder->value, strerror(errno));
    int code = apply_config(o, p);
    if (code == 0 && p->command == COMMAND_worker)
        code = apply_environment(o, g, p);
    if (code == 0)
        code = apply_given(o, g, p, true);
    return code ? code : apply_given(o, g, p, false);
}

/* --- what follows from it
 * ---------------------------------------------------------------------------- */

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

static int make_queues(struct options *o, const struct gathered *g)
{
    if (g->queues) {
        int code = apply_setting(o, "task_queues", g->queues, "--queues");
        if (code != 0)
            return code;
    }
    char **excluded = list_split(g->excluded);
    char *fallback[] = {o->settings.task_default_queue, NULL};
    for (char **at = o->settings.task_queues ? o->settings.task_queues : fallback; *at; at++)
        if (!list_has(excluded, *at) && !list_has(o->queues, *at))
            o->queues = list_add(o->queues, *at, strlen(*at));
    list_free(excluded);
    return o->queues ? 0 : options_usage("--exclude-queues leaves no queue to take tasks from");
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
    if (o->settings.ignored && !o->quiet)
        fprintf(stderr, "cworker: settings without effect here: %s\n", o->settings.ignored);
    return 0;
}

static int finish(struct options *o, const struct gathered *g, const struct options_line *p)
{
    struct error err = {0};
    o->apps = list_split(g->apps);
    int code = make_hostname(o, g->hostname);
    if (code == 0)
        code = make_queues(o, g);
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
    struct gathered g = {0};
    int code = options_read(&p, argc, argv);
    if (code == 0 && options_given(&p, OPTION_HELP)) {
        help_print(p.named ? p.command : -1);
        code = OPTIONS_EXIT;
    } else if (code == 0 && options_given(&p, OPTION_VERSION)) {
        printf("cworker %s\n", CWORKER_VERSION);
        code = OPTIONS_EXIT;
    } else if (code == 0) {
        o->command = command_names[p.command];
        code = apply_all(o, &g, &p);
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
    list_free(o->apps);
    list_free(o->queues);
    list_free(o->rest);
    free(o->hostname);
    free(o->logfile);
    free(o->pidfile);
    memset(o, 0, sizeof *o);
}
