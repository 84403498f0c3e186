/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/config/settings_private.h"

#include "proto/base/mem.h"
#include "worker/config/settings_names.h"
#include "worker/config/text_list.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Values as JSON has them, in the forms that Celery takes. Simple ones become text and go the way
 * of text, so that they are checked once and in one place. */

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

int setting_set_tree(struct settings *s, const struct setting_row *row, const cJSON *value,
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
    setting_clear(s, row);
    *(cJSON **)setting_field(s, row) = copy;
    return 0;
}

/* Names out of a list of names, of objects with a name, or of an object with names as keys: the
 * forms that task_queues takes in Celery. */
static int set_list_json(struct settings *s, const struct setting_row *row, const cJSON *value,
                         struct error *err)
{
    char **list = NULL;
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
            text_list_free(list);
            return error_set(err, ERROR_INVALID, "%s: must be a list of names", row->name);
        }
        list = text_list_add(list, text, strlen(text));
    }
    return setting_set_list(s, row, list, err);
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
    int code = setting_set_foreign(s, name, text, err);
    free(text);
    return code;
}

int settings_set_json(struct settings *s, const char *name, const cJSON *value, struct error *err)
{
    const struct setting_row *row = setting_find(name);
    if (!row)
        return set_foreign_json(s, name, value, err);
    if (cJSON_IsNull(value)) {
        if (strcmp(name, "result_expires") == 0) /* None in Celery: never */
            s->result_expires = 0;
        else
            setting_set_default(s, row);
        return 0;
    }
    if (row->type == SETTING_JSON)
        return cJSON_IsString(value) ? setting_set_text(s, row, value->valuestring, err)
                                     : setting_set_tree(s, row, value, err);
    if (row->type == SETTING_LIST && (cJSON_IsArray(value) || cJSON_IsObject(value)))
        return set_list_json(s, row, value, err);
    int64_t whole;
    char *text = row->type == SETTING_INT && json_as_int(value, &whole)
                     ? mem_printf("%lld", (long long)whole)
                     : scalar_text(value);
    if (!text)
        return error_set(err, ERROR_INVALID, "%s: a single value is wanted, no list or object",
                         name);
    int code = setting_set_text(s, row, text, err);
    free(text);
    return code;
}
