/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/config/settings_private.h"

#include "broker/url.h"
#include "proto/base/mem.h"
#include "worker/config/settings_names.h"
#include "worker/config/text_list.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* The rows of SETTINGS as a table, and a setter for each type of value. Whatever way a value comes
 * (command line, environment, file, default), it ends in one of them, and is checked there, alone;
 * settings_check looks at what only two values together can have wrong. */

const struct setting_row setting_rows[N_SETTINGS] = {
#define SETTING_ROW(name, type, fallback, unit, help)                                              \
    {#name, SETTING_##type, offsetof(struct settings, name), fallback, unit, help},
    SETTINGS(SETTING_ROW)
#undef SETTING_ROW
};

static const char *const row_names[] = {
#define SETTING_NAME(name, type, fallback, unit, help) #name,
    SETTINGS(SETTING_NAME)
#undef SETTING_NAME
};

const struct setting_row *setting_find(const char *name)
{
    for (int i = 0; i < N_SETTINGS; i++)
        if (strcmp(setting_rows[i].name, name) == 0)
            return &setting_rows[i];
    return NULL;
}

void *setting_field(const struct settings *s, const struct setting_row *row)
{
    return (char *)(uintptr_t)s + row->offset;
}

void setting_clear(struct settings *s, const struct setting_row *row)
{
    void *field = setting_field(s, row);
    if (row->type == SETTING_TEXT) {
        free(*(char **)field);
        *(char **)field = NULL;
    } else if (row->type == SETTING_LIST) {
        text_list_free(*(char ***)field);
        *(char ***)field = NULL;
    } else if (row->type == SETTING_JSON) {
        cJSON_Delete(*(cJSON **)field);
        *(cJSON **)field = NULL;
    }
}

/* --- setters --- */

static int set_string(struct settings *s, const struct setting_row *row, const char *value,
                      struct error *err)
{
    /* An empty variable or option means "not set", as in Celery. */
    int code = *value ? setting_check_text(row, value, err) : 0;
    if (code != 0)
        return code;
    const char *kept = *value ? value : row->fallback;
    if (strcmp(row->name, "worker_pool") == 0 && strcmp(kept, "processes") == 0)
        kept = "prefork";
    char *copy = mem_dup(kept);
    setting_clear(s, row);
    *(char **)setting_field(s, row) = copy;
    return 0;
}

static int set_int(struct settings *s, const struct setting_row *row, const char *value,
                   struct error *err)
{
    char *end;
    errno = 0;
    long long number = strtoll(value, &end, 10);
    if (errno || *end || end == value || isspace((unsigned char)*value))
        return error_set(err, ERROR_INVALID, "%s: \"%.40s\" is not a whole number", row->name,
                         value);
    int code = setting_check_number(row, (double)number, err);
    if (code == 0)
        *(int64_t *)setting_field(s, row) = number;
    return code;
}

static int set_real(struct settings *s, const struct setting_row *row, const char *value,
                    struct error *err)
{
    char *end;
    double number = strtod(value, &end);
    if (*end || end == value || !isfinite(number) || isspace((unsigned char)*value))
        return error_set(err, ERROR_INVALID, "%s: \"%.40s\" is not a number of seconds", row->name,
                         value);
    int code = setting_check_number(row, number, err);
    if (code == 0)
        *(double *)setting_field(s, row) = number;
    return code;
}

static int set_flag(struct settings *s, const struct setting_row *row, const char *value,
                    struct error *err)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcasecmp(value, words[i]) == 0) {
            *(bool *)setting_field(s, row) = i % 2;
            return 0;
        }
    return error_set(err, ERROR_INVALID, "%s: \"%.40s\" is neither true nor false", row->name,
                     value);
}

/* Takes list; an empty one means "not set", as for texts. */
int setting_set_list(struct settings *s, const struct setting_row *row, char **list,
                     struct error *err)
{
    if (!list && row->fallback)
        list = text_list_split(row->fallback, ",");
    int code =
        list && strcmp(row->name, "priority_steps") == 0 ? setting_check_steps(list, err) : 0;
    if (code != 0) {
        text_list_free(list);
        return code;
    }
    setting_clear(s, row);
    *(char ***)setting_field(s, row) = list;
    return 0;
}

static int set_tree_text(struct settings *s, const struct setting_row *row, const char *value,
                         struct error *err)
{
    if (!*value) {
        setting_clear(s, row);
        return 0;
    }
    cJSON *tree = json_parse(value, strlen(value), err);
    if (!tree)
        return error_wrap(err, "%s: must be JSON text", row->name);
    int code = setting_set_tree(s, row, tree, err);
    cJSON_Delete(tree);
    return code;
}

static int set_any(struct settings *s, const struct setting_row *row, const char *value,
                   struct error *err)
{
    switch (row->type) {
    case SETTING_TEXT:
        return set_string(s, row, value, err);
    case SETTING_INT:
        return set_int(s, row, value, err);
    case SETTING_REAL:
        return set_real(s, row, value, err);
    case SETTING_FLAG:
        return set_flag(s, row, value, err);
    case SETTING_LIST:
        return setting_set_list(s, row, text_list_split(value, ","), err);
    case SETTING_JSON:
        return set_tree_text(s, row, value, err);
    }
    return ERROR_INVALID;
}

int setting_set_text(struct settings *s, const struct setting_row *row, const char *value,
                     struct error *err)
{
    int code = set_any(s, row, value, err);
    if (code == 0)
        s->given[row - setting_rows] = *value != '\0';
    return code;
}

bool settings_given(const struct settings *s, const char *name)
{
    const struct setting_row *row = setting_find(name);
    return row && s->given[row - setting_rows];
}

void setting_set_default(struct settings *s, const struct setting_row *row)
{
    setting_clear(s, row);
    if (row->fallback && row->type == SETTING_TEXT)
        *(char **)setting_field(s, row) = mem_dup(row->fallback);
    else if (row->fallback)
        set_any(s, row, row->fallback, NULL);
    s->given[row - setting_rows] = false;
}

/* --- names --- */

static void ignored_note(struct settings *s, const char *name)
{
    size_t size = strlen(name);
    for (const char *at = s->ignored; at && (at = strstr(at, name)); at += size)
        if ((at == s->ignored || at[-1] == ' ') && (at[size] == ',' || at[size] == '\0'))
            return;
    char *names = s->ignored ? mem_printf("%s, %s", s->ignored, name) : mem_dup(name);
    free(s->ignored);
    s->ignored = names;
}

/* Upper-case names are those of Celery before 4 and of Django's CELERY namespace. */
const char *settings_nearest(const char *name)
{
    char folded[80];
    size_t size = 0;
    for (; name[size] && size < sizeof folded - 1; size++)
        folded[size] = name[size] == '-' ? '_' : (char)tolower((unsigned char)name[size]);
    folded[size] = '\0';
    const char *bare = strncmp(folded, "celery_", 7) == 0 ? folded + 7 : folded;
    const struct setting_row *row = setting_find(bare);
    return row ? row->name : name_nearest(bare, row_names, N_SETTINGS);
}

static int unknown_name(const char *name, struct error *err)
{
    const char *near = settings_nearest(name);
    return error_set(err, ERROR_INVALID, "unknown setting \"%.60s\"%s%s%s", name,
                     near ? "; did you mean " : " (cworker help settings lists all)",
                     near ? near : "", near ? "?" : "");
}

int setting_set_foreign(struct settings *s, const char *name, const char *value,
                        struct error *err)
{
    int code = setting_name_check(name, value, err);
    if (code == ERROR_NOT_FOUND)
        return unknown_name(name, err);
    if (code == 0)
        ignored_note(s, name);
    return code;
}

int settings_set(struct settings *s, const char *name, const char *value, struct error *err)
{
    const struct setting_row *row = setting_find(name);
    return row ? setting_set_text(s, row, value, err) : setting_set_foreign(s, name, value, err);
}

/* --- all of them --- */

void settings_init(struct settings *s)
{
    memset(s, 0, sizeof *s);
    for (int i = 0; i < N_SETTINGS; i++)
        setting_set_default(s, &setting_rows[i]);
}

void settings_done(struct settings *s)
{
    for (int i = 0; i < N_SETTINGS; i++)
        setting_clear(s, &setting_rows[i]);
    free(s->ignored);
    s->ignored = NULL;
}

int settings_check(const struct settings *s, struct error *err)
{
    struct redis_url url;
    int code = settings_broker(s, &url, err);
    if (code != 0)
        return error_wrap(err, "broker_url");
    redis_url_done(&url);
    if (s->task_time_limit > 0 && s->task_soft_time_limit > s->task_time_limit)
        return error_set(
            err, ERROR_INVALID,
            "task_soft_time_limit (%g s) is beyond task_time_limit (%g s): the task would "
            "be killed before it is asked to end",
            s->task_soft_time_limit, s->task_time_limit);
    return 0;
}
