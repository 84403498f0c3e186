/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/config/options_apply.h"

#include "proto/base/mem.h"
#include "worker/config/text_list.h"

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

/* What each option does. Nothing is applied while the command line is read, because what stands
 * first does not count first: everything is applied from the weakest to the strongest: file,
 * environment, --set, command line. Values may hold passwords, so no message repeats more of the
 * command line than an option's name. */

/* "a,b" with what is there already. */
static void list_join(char **list, const char *value)
{
    char *joined = *list ? mem_printf("%s,%s", *list, value) : mem_dup(value);
    free(*list);
    *list = joined;
}

int options_apply_setting(struct options *o, const char *setting, const char *value,
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
    int code = options_apply_setting(o, name, equals + 1, "--set");
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

static int apply_app(struct options_gathered *g, const char *value, const char *origin)
{
    int code = 0;
    char **apps = text_list_split(value, ", ");
    for (char **app = apps; app && *app && code == 0; app++)
        if (!strchr(*app, '/') && !strstr(*app, ".so"))
            code = options_usage(
                "%s: \"%.60s\" looks like a Python module; cworker loads shared objects with C "
                "tasks, as in -A ./libmytasks.so",
                origin, *app);
    text_list_free(apps);
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

/* Options that are only kept, for options_parse() or for main. */
static void gather(struct options *o, struct options_gathered *g, enum option_kind kind,
                   const char *value)
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
    case OPTION_LOGFILE: /* as with Celery, `--logfile=` means none */
        text_replace(&o->logfile, *value ? value : NULL);
        break;
    case OPTION_PIDFILE:
        text_replace(&o->pidfile, *value ? value : NULL);
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

static int apply(struct options *o, struct options_gathered *g, const struct option_row *row,
                 const char *value, const char *origin)
{
    switch (row->kind) {
    case OPTION_SETTING:
        return options_apply_setting(o, row->target, value, origin);
    case OPTION_PREFETCH: /* Celery's 0 on the command line: as the setting says */
        return strcmp(value, "0") == 0
                   ? 0
                   : options_apply_setting(o, "worker_prefetch_multiplier", value, origin);
    case OPTION_AUTOSCALE:
        return autoscale_parse(value, &o->autoscale)
                   ? 0
                   : options_usage("%s: \"%.40s\" is no range: write --autoscale MAX,MIN, "
                                   "each at most 512 and not both 0",
                                   origin, value);
    case OPTION_NO_PREFETCH:
        return options_apply_setting(o, "worker_prefetch_multiplier", "1", origin);
    case OPTION_NO_COLOR:
        return options_apply_setting(o, "worker_log_color", "false", origin);
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
static int apply_environment(struct options *o, struct options_gathered *g,
                             const struct options_line *p)
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

static int apply_given(struct options *o, struct options_gathered *g, const struct options_line *p,
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

int options_apply(struct options *o, struct options_gathered *g, const struct options_line *p)
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
