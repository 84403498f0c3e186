/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/config/settings.h"

#include "broker/url.h"
#include "proto/base/mem.h"
#include "worker/config/settings_names.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* The rows of SETTINGS as a table, and the ways a value gets into a row: from text (command line,
 * environment, defaults) or from JSON (file). Both end in the same setter for each type, and every
 * value is checked there, alone; settings_check looks at what only two values together can have
 * wrong. */

struct row {
    const char *name;
    enum setting_type type;
    size_t offset;
    const char *fallback, *unit, *help;
};

static const struct row rows[] = {
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

enum { N_ROWS = sizeof rows / sizeof *rows };

/* Numbers are 0 or more; these are narrower (or wider than an int). */
static const struct bounds {
    const char *name;
    double min, max;
} bounds[] = {
    {"visibility_timeout", 1, 1e9},
    {"unacked_mutex_expire", 1, 1e9},
    {"unacked_restore_limit", 0, 1e9},
    {"worker_lease", 1, 86400},
    {"worker_concurrency", 0, 4096},
    {"task_max_deliveries", 1, 1e6},
    {"worker_max_memory_per_child", 0, 1e12},
    {"result_spool_size", 0, 1e15},
    {"message_max_size", 1024, 512.0 * 1024 * 1024},
};

/* Texts that are one of a few words. */
static const struct choice {
    const char *name, *words;
} choices[] = {
    {"worker_log_color", "auto true false"},
    {"queue_order_strategy", "round_robin priority sorted"},
};

/* Members of broker_transport_options that have a row of their own. */
static const char *const transport_rows[] = {
    "visibility_timeout", "priority_steps", "global_keyprefix", "queue_order_strategy",
    "unacked_key", "unacked_index_key", "unacked_mutex_key", "unacked_mutex_expire",
    "unacked_restore_limit", "fanout_prefix", "fanout_patterns", "master_name", "sentinel_kwargs",
};

/* Members that Kombu's Redis transport knows and that have no effect here. */
static const char *const transport_ignored[] = {
    "socket_timeout", "socket_connect_timeout", "socket_keepalive", "socket_keepalive_options",
    "health_check_interval", "retry_on_timeout", "max_connections", "max_retries", "interval_start",
    "interval_step", "interval_max", "unacked_restore_interval", "unacked_restore_throttle",
    "polling_interval", "client_name", "min_other_sentinels", "sentinel_fanout_compat",
};

static const struct row *row_find(const char *name)
{
    for (int i = 0; i < N_ROWS; i++)
        if (strcmp(rows[i].name, name) == 0)
            return &rows[i];
    return NULL;
}

static void *field_of(const struct settings *s, const struct row *row)
{
    return (char *)(uintptr_t)s + row->offset;
}

static void list_free(char **list)
{
    for (char **at = list; at && *at; at++)
        free(*at);
    free(list);
}

static void field_clear(struct settings *s, const struct row *row)
{
    void *field = field_of(s, row);
    if (row->type == SETTING_TEXT) {
        free(*(char **)field);
        *(char **)field = NULL;
    } else if (row->type == SETTING_LIST) {
        list_free(*(char ***)field);
        *(char ***)field = NULL;
    } else if (row->type == SETTING_JSON) {
        cJSON_Delete(*(cJSON **)field);
        *(cJSON **)field = NULL;
    }
}

/* --- checks of single values -------------------------------------------------------------------
 */

static int number_check(const struct row *row, double value, struct error *err)
{
    double min = 0, max = row->type == SETTING_INT ? INT32_MAX : 1e12;
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++)
        if (strcmp(bounds[i].name, row->name) == 0) {
            min = bounds[i].min;
            max = bounds[i].max;
        }
    if (value >= min && value <= max)
        return 0;
    return error_set(err, ERROR_INVALID, "%s: %.15g is too %s: it goes from %.15g to %.15g%s%s",
                     row->name, value, value < min ? "small" : "large", min, max,
                     *row->unit ? " " : "", row->unit);
}

static int choice_check(const char *name, const char *words, const char *value, struct error *err)
{
    size_t size = strlen(value);
    for (const char *at = words; *at;) {
        size_t length = strcspn(at, " ");
        if (length == size && memcmp(at, value, size) == 0)
            return 0;
        at += length + (at[length] == ' ');
    }
    return error_set(err, ERROR_INVALID, "%s: \"%.60s\" is none of: %s", name, value, words);
}

static int pool_check(const char *value, struct error *err)
{
    if (strcmp(value, "eventlet") == 0 || strcmp(value, "gevent") == 0)
        return error_set(err, ERROR_UNSUPPORTED,
                         "worker_pool: %s is a pool of Python's; use prefork, or threads for tasks "
                         "that mostly wait",
                         value);
    return choice_check("worker_pool", "prefork processes threads solo", value, err);
}

bool settings_rate(const char *text, double *ret_per_second)
{
    double number = 0, seconds = 1;
    if (text && *text) {
        char *end = NULL;
        number = isdigit((unsigned char)*text) || *text == '.' ? strtod(text, &end) : -1;
        if (number < 0 || !isfinite(number))
            return false;
        if (*end == '/' && end[1] && strchr("smh", end[1]) && !end[2])
            seconds = end[1] == 's' ? 1 : end[1] == 'm' ? 60 : 3600;
        else if (*end)
            return false;
    }
    *ret_per_second = number / seconds;
    return true;
}

static int rate_check(const char *value, struct error *err)
{
    double ignored;
    if (settings_rate(value, &ignored))
        return 0;
    return error_set(err, ERROR_INVALID,
                     "task_default_rate_limit: \"%.40s\" is no rate: write 10/s, 10/m or 10/h",
                     value);
}

static bool scheme_is(const char *url, const char *words)
{
    size_t size = strcspn(url, ":+");
    for (const char *at = words; *at;) {
        size_t length = strcspn(at, " ");
        if (length == size && strncasecmp(at, url, size) == 0)
            return true;
        at += length + (at[length] == ' ');
    }
    return false;
}

static int broker_check(const char *value, struct error *err)
{
    if (!strstr(value, "://"))
        return error_set(err, ERROR_INVALID,
                         "broker_url: this is no URL; it looks like redis://127.0.0.1:6379/0");
    if (scheme_is(value,
                  "amqp amqps pyamqp librabbitmq sqs memory filesystem sqla zookeeper consul "
                  "mongodb pyro qpid etcd azureservicebus azurestoragequeues gcpubsub "
                  "confluentkafka kafka slmq"))
        return error_set(err, ERROR_UNSUPPORTED,
                         "broker_url: cworker speaks Redis only: redis://, rediss:// or "
                         "redis+socket://, not %.*s://",
                         (int)strcspn(value, ":"), value);
    struct redis_url url;
    struct error why = {0};
    int code = redis_url_parse(value, &url, &why);
    if (code != 0)
        return error_set(err, code, "broker_url: %s", why.text);
    redis_url_done(&url);
    return 0;
}

static int backend_check(const char *value, struct error *err)
{
    if (scheme_is(value, "redis rediss unix mongodb file disabled"))
        return 0;
    return error_set(err, ERROR_UNSUPPORTED,
                     "result_backend: results go to mongodb://, redis:// or file://, or nowhere "
                     "(disabled://); not to %.*s",
                     (int)(strstr(value, ":") ? strcspn(value, ":") : 0), value);
}

static int text_check(const struct row *row, const char *value, struct error *err)
{
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++)
        if (strcmp(choices[i].name, row->name) == 0)
            return choice_check(row->name, choices[i].words, value, err);
    if (strcmp(row->name, "worker_pool") == 0)
        return pool_check(value, err);
    if (strcmp(row->name, "task_default_rate_limit") == 0)
        return rate_check(value, err);
    if (strcmp(row->name, "broker_url") == 0)
        return broker_check(value, err);
    if (strcmp(row->name, "result_backend") == 0)
        return backend_check(value, err);
    if (strcmp(row->name, "result_serializer") == 0 && strcmp(value, "json") != 0)
        return error_set(
            err, ERROR_UNSUPPORTED,
            "result_serializer: results are written as json only, \"%.40s\" is none of "
            "cworker's (pickle would run code of whoever can write to the store)",
            value);
    return 0;
}

enum { MOST_STEPS = 10 }; /* as many as a channel can have */

static int steps_check(char **list, struct error *err)
{
    long before = -1;
    int n = 0;
    for (; list[n]; n++) {
        char *end;
        long step = strtol(list[n], &end, 10);
        if (*end || end == list[n] || step <= before || step > 255)
            break;
        before = step;
    }
    if (n == 0 || n > MOST_STEPS || list[n])
        return error_set(err, ERROR_INVALID,
                         "priority_steps: must be 1 to %d rising whole numbers, as in 0,3,6,9",
                         MOST_STEPS);
    return 0;
}

/* --- setters, one for each type ------------------------------------------------------------------
 */

static int set_text(struct settings *s, const struct row *row, const char *value, struct error *err)
{
    /* An empty variable or option means "not set", as in Celery. */
    int code = *value ? text_check(row, value, err) : 0;
    if (code != 0)
        return code;
    const char *kept = *value ? value : row->fallback;
    if (strcmp(row->name, "worker_pool") == 0 && strcmp(kept, "processes") == 0)
        kept = "prefork";
    char *copy = mem_dup(kept);
    field_clear(s, row);
    *(char **)field_of(s, row) = copy;
    return 0;
}

static int set_int(struct settings *s, const struct row *row, const char *value, struct error *err)
{
    char *end;
    errno = 0;
    long long number = strtoll(value, &end, 10);
    if (errno || *end || end == value || isspace((unsigned char)*value))
        return error_set(err, ERROR_INVALID, "%s: \"%.40s\" is not a whole number", row->name,
                         value);
    int code = number_check(row, (double)number, err);
    if (code == 0)
        *(int64_t *)field_of(s, row) = number;
    return code;
}

static int set_real(struct settings *s, const struct row *row, const char *value, struct error *err)
{
    char *end;
    double number = strtod(value, &end);
    if (*end || end == value || !isfinite(number) || isspace((unsigned char)*value))
        return error_set(err, ERROR_INVALID, "%s: \"%.40s\" is not a number of seconds", row->name,
                         value);
    int code = number_check(row, number, err);
    if (code == 0)
        *(double *)field_of(s, row) = number;
    return code;
}

static int set_flag(struct settings *s, const struct row *row, const char *value, struct error *err)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcasecmp(value, words[i]) == 0) {
            *(bool *)field_of(s, row) = i % 2;
            return 0;
        }
    return error_set(err, ERROR_INVALID, "%s: \"%.40s\" is neither true nor false", row->name,
                     value);
}

static char **list_append(char **list, int n, const char *text, size_t size)
{
    list = mem_realloc(list, ((size_t)n + 2) * sizeof *list);
    list[n] = mem_ndup(text, size);
    list[n + 1] = NULL;
    return list;
}

/* NULL when there is nothing between the commas. */
static char **list_split(const char *text)
{
    char **list = NULL;
    int n = 0;
    while (*text) {
        text += strspn(text, ", \t");
        size_t size = strcspn(text, ","), kept = size;
        while (kept > 0 && isspace((unsigned char)text[kept - 1]))
            kept--;
        if (kept > 0)
            list = list_append(list, n++, text, kept);
        text += size;
    }
    return list;
}

/* Takes list; an empty one means "not set", as for texts. */
static int set_list(struct settings *s, const struct row *row, char **list, struct error *err)
{
    if (!list && row->fallback)
        list = list_split(row->fallback);
    int code = list && strcmp(row->name, "priority_steps") == 0 ? steps_check(list, err) : 0;
    if (code != 0) {
        list_free(list);
        return code;
    }
    field_clear(s, row);
    *(char ***)field_of(s, row) = list;
    return 0;
}

/* Celery's transport options arrive as one dictionary; their values live in rows of their own. */
static int set_transport_options(struct settings *s, const cJSON *value, struct error *err)
{
    enum { N_OWN = sizeof transport_rows / sizeof *transport_rows };
    enum { N_IGNORED = sizeof transport_ignored / sizeof *transport_ignored };
    for (const cJSON *at = value->child; at; at = at->next) {
        bool own = false, known = false;
        for (int i = 0; i < N_OWN; i++)
            own = own || strcmp(transport_rows[i], at->string) == 0;
        for (int i = 0; i < N_IGNORED; i++)
            known = known || strcmp(transport_ignored[i], at->string) == 0;
        if (strcmp(at->string, "sep") == 0)
            known = cJSON_IsString(at) && strcmp(at->valuestring, "\x06\x16") == 0;
        if (own) {
            int code = settings_set_json(s, at->string, at, err);
            if (code != 0)
                return error_wrap(err, "broker_transport_options");
        } else if (!known) {
            const char *near = name_nearest(at->string, transport_rows, N_OWN);
            return error_set(
                err, ERROR_INVALID, "broker_transport_options: \"%.60s\" has no meaning here%s%s%s",
                at->string, near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
        }
    }
    return 0;
}

static int set_tree(struct settings *s, const struct row *row, const cJSON *value,
                    struct error *err)
{
    bool wants_list = strcmp(row->name, "tasks") == 0;
    if (wants_list ? !cJSON_IsArray(value) : !cJSON_IsObject(value))
        return error_set(err, ERROR_INVALID, "%s: must be a JSON %s", row->name,
                         wants_list ? "list: [{\"name\": …}]" : "object: {\"name\": value}");
    if (strcmp(row->name, "broker_transport_options") == 0) {
        int code = set_transport_options(s, value, err);
        if (code != 0)
            return code;
    }
    cJSON *copy = cJSON_Duplicate(value, true);
    if (!copy)
        return error_set(err, ERROR_TOO_BIG, "%s: nested too deeply", row->name);
    field_clear(s, row);
    *(cJSON **)field_of(s, row) = copy;
    return 0;
}

static int set_tree_text(struct settings *s, const struct row *row, const char *value,
                         struct error *err)
{
    if (!*value) {
        field_clear(s, row);
        return 0;
    }
    cJSON *tree = json_parse(value, strlen(value), err);
    if (!tree)
        return error_wrap(err, "%s: must be JSON text", row->name);
    int code = set_tree(s, row, tree, err);
    cJSON_Delete(tree);
    return code;
}

static int set_row(struct settings *s, const struct row *row, const char *value, struct error *err)
{
    switch (row->type) {
    case SETTING_TEXT:
        return set_text(s, row, value, err);
    case SETTING_INT:
        return set_int(s, row, value, err);
    case SETTING_REAL:
        return set_real(s, row, value, err);
    case SETTING_FLAG:
        return set_flag(s, row, value, err);
    case SETTING_LIST:
        return set_list(s, row, list_split(value), err);
    case SETTING_JSON:
        return set_tree_text(s, row, value, err);
    }
    return ERROR_INVALID;
}

static void set_fallback(struct settings *s, const struct row *row)
{
    field_clear(s, row);
    if (row->fallback && row->type == SETTING_TEXT)
        *(char **)field_of(s, row) = mem_dup(row->fallback);
    else if (row->fallback)
        set_row(s, row, row->fallback, NULL);
}

/* --- names
 * ----------------------------------------------------------------------------------------- */

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
    const struct row *row = row_find(bare);
    return row ? row->name : name_nearest(bare, row_names, N_ROWS);
}

static int unknown_name(const char *name, struct error *err)
{
    const char *near = settings_nearest(name);
    return error_set(err, ERROR_INVALID, "unknown setting \"%.60s\"%s%s%s", name,
                     near ? "; did you mean " : " (cworker help settings lists all)",
                     near ? near : "", near ? "?" : "");
}

static int set_foreign(struct settings *s, const char *name, const char *value, struct error *err)
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
    const struct row *row = row_find(name);
    return row ? set_row(s, row, value, err) : set_foreign(s, name, value, err);
}

/* --- from JSON
 * --------------------------------------------------------------------------------------- */

/* Names out of a list of names, of objects with a name, or of an object with names as keys: the
 * forms that task_queues takes in Celery. */
static int set_list_json(struct settings *s, const struct row *row, const cJSON *value,
                         struct error *err)
{
    char **list = NULL;
    int n = 0;
    for (const cJSON *at = value->child; at; at = at->next) {
        const char *text = cJSON_IsObject(value) ? at->string
                           : cJSON_IsObject(at)  ? json_get_string(at, "name")
                                                 : at->valuestring;
        char number[32];
        if (!text && cJSON_IsNumber(at)) {
            snprintf(number, sizeof number, "%.15g", at->valuedouble);
            text = number;
        }
        if (!text || !*text) {
            list_free(list);
            return error_set(err, ERROR_INVALID, "%s: must be a list of names", row->name);
        }
        list = list_append(list, n++, text, strlen(text));
    }
    return set_list(s, row, list, err);
}

/* The text that settings_set takes; NULL for lists and objects. Caller frees. */
static char *scalar_text(const cJSON *value)
{
    if (cJSON_IsString(value))
        return mem_dup(value->valuestring);
    if (cJSON_IsNull(value))
        return mem_dup("");
    if (cJSON_IsBool(value) || cJSON_IsNumber(value))
        return json_text(value);
    return NULL;
}

/* ["json"] for accept_content and its like: the items with commas between. */
static char *items_text(const cJSON *value)
{
    struct buf out = BUF_INIT(4096);
    for (const cJSON *at = value->child; at; at = at->next) {
        char *text = scalar_text(at);
        buf_str(&out, out.size ? "," : "");
        buf_str(&out, text ? text : "?");
        free(text);
    }
    return buf_take(&out);
}

static int set_foreign_json(struct settings *s, const char *name, const cJSON *value,
                            struct error *err)
{
    char *text = cJSON_IsArray(value) ? items_text(value) : scalar_text(value);
    int code = set_foreign(s, name, text, err);
    free(text);
    return code;
}

int settings_set_json(struct settings *s, const char *name, const cJSON *value, struct error *err)
{
    const struct row *row = row_find(name);
    if (!row)
        return set_foreign_json(s, name, value, err);
    if (cJSON_IsNull(value)) {
        if (strcmp(name, "result_expires") == 0) /* None in Celery: never */
            s->result_expires = 0;
        else
            set_fallback(s, row);
        return 0;
    }
    if (row->type == SETTING_JSON)
        return cJSON_IsString(value) ? set_row(s, row, value->valuestring, err)
                                     : set_tree(s, row, value, err);
    if (row->type == SETTING_LIST && (cJSON_IsArray(value) || cJSON_IsObject(value)))
        return set_list_json(s, row, value, err);
    int64_t whole;
    char *text = row->type == SETTING_INT && json_as_int(value, &whole)
                     ? mem_printf("%lld", (long long)whole)
                     : scalar_text(value);
    if (!text)
        return error_set(err, ERROR_INVALID, "%s: a single value is wanted, no list or object",
                         name);
    int code = set_row(s, row, text, err);
    free(text);
    return code;
}

/* --- from files and the environment
 * --------------------------------------------------------------- */

enum { LARGEST_FILE = 16 << 20 };

static int file_read(const char *path, struct buf *out, struct error *err)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return error_set(err, errno == ENOENT ? ERROR_NOT_FOUND : ERROR_SYSTEM, "%s: %s", path,
                         strerror(errno));
    char chunk[8192];
    size_t size;
    while (!out->failed && (size = fread(chunk, 1, sizeof chunk, file)) > 0)
        buf_add(out, chunk, size);
    bool broken = ferror(file);
    fclose(file);
    if (broken)
        return error_set(err, ERROR_SYSTEM, "%s: cannot be read", path);
    return out->failed ? error_set(err, ERROR_TOO_BIG, "%s: larger than 16 MiB", path) : 0;
}

/* A member by its own name is more specific than the dictionary it also fits in, so that comes
 * first. */
static int load_members(struct settings *s, const cJSON *file, struct error *err)
{
    const cJSON *options = json_get(file, "broker_transport_options");
    int code = options ? settings_set_json(s, "broker_transport_options", options, err) : 0;
    for (const cJSON *at = file->child; at && code == 0; at = at->next)
        if (at != options)
            code = settings_set_json(s, at->string, at, err);
    return code;
}

int settings_load_file(struct settings *s, const char *path, struct error *err)
{
    struct buf text = BUF_INIT(LARGEST_FILE);
    int code = file_read(path, &text, err);
    cJSON *file = NULL;
    if (code == 0 && !(file = json_parse(text.data ? text.data : "", text.size, err))) {
        code = ERROR_INVALID;
        error_wrap(err, "%s is not JSON", path);
    } else if (code == 0 && !cJSON_IsObject(file)) {
        code = error_set(err, ERROR_INVALID, "%s: must hold one JSON object of settings", path);
    } else if (code == 0) {
        code = load_members(s, file, err);
        if (code != 0)
            error_wrap(err, "%s", path);
    }
    cJSON_Delete(file);
    buf_done(&text);
    return code;
}

static int load_variable(struct settings *s, const struct row *row, const char *variable,
                         struct error *err)
{
    const char *value = getenv(variable);
    if (!value || !*value) /* composed environments leave empty variables behind */
        return 0;
    int code = set_row(s, row, value, err);
    return code == 0 ? 0 : error_wrap(err, "environment %s", variable);
}

static int load_row(struct settings *s, const struct row *row, struct error *err)
{
    char variable[96] = "CWORKER_";
    size_t at = strlen(variable);
    for (const char *c = row->name; *c && at < sizeof variable - 1; c++)
        variable[at++] = (char)toupper((unsigned char)*c);
    variable[at] = '\0';
    return load_variable(s, row, variable, err);
}

int settings_load_environment(struct settings *s, struct error *err)
{
    const struct row *options = row_find("broker_transport_options");
    int code = load_variable(s, row_find("broker_url"), "CELERY_BROKER_URL", err);
    if (code == 0)
        code = load_variable(s, row_find("result_backend"), "CELERY_RESULT_BACKEND", err);
    if (code == 0)
        code = load_row(s, options, err);
    for (int i = 0; i < N_ROWS && code == 0; i++)
        if (&rows[i] != options)
            code = load_row(s, &rows[i], err);
    return code;
}

/* --- all of them
 * ------------------------------------------------------------------------------------ */

void settings_init(struct settings *s)
{
    memset(s, 0, sizeof *s);
    for (int i = 0; i < N_ROWS; i++)
        set_fallback(s, &rows[i]);
}

void settings_done(struct settings *s)
{
    for (int i = 0; i < N_ROWS; i++)
        field_clear(s, &rows[i]);
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
