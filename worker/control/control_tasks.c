/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/control/call.h"

#include "proto/base/mem.h"
#include "worker/log.h"
#include "worker/rate.h"
#include "worker/registry.h"
#include "worker/revoke.h"

#include <ctype.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* Commands about tasks: revoke, revoke_by_stamped_headers, terminate, rate_limit, time_limit. Tools
 * match on the texts of the replies, which are therefore Celery's to the letter, Python's sets
 * included. */

static int signal_by_name(const char *name)
{
    static const struct {
        const char *name;
        int number;
    } others[] = {{"CLD", SIGCHLD}, {"IO", SIGIO}, {"IOT", SIGABRT}, {"POLL", SIGPOLL}};
    for (int i = 1; i < NSIG; i++)
        if (sigabbrev_np(i) && strcmp(sigabbrev_np(i), name) == 0)
            return i;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strcmp(others[i].name, name) == 0)
            return others[i].number;
    return strcmp(name, "RTMIN") == 0 ? SIGRTMIN : strcmp(name, "RTMAX") == 0 ? SIGRTMAX : 0;
}

/* SIGTERM, TERM or 15, which is also what Python takes for false; 0 and a reply where it is
 * none. */
static int signal_of(const cJSON *value, cJSON **ret_error)
{
    const char *name = cJSON_IsString(value) ? value->valuestring : NULL;
    int64_t number = cJSON_IsTrue(value);
    *ret_error = NULL;
    if (call_is_false(value))
        return SIGTERM;
    if (cJSON_IsTrue(value) || json_as_int(value, &number)) {
        if (number < 0 || number >= NSIG)
            *ret_error = call_raise("OSError", "%lld is no signal", (long long)number);
        return *ret_error ? 0 : (int)number;
    }
    bool upper = false, lower = false;
    for (const char *at = name; name && *at; at++) {
        upper |= isupper((unsigned char)*at) != 0;
        lower |= islower((unsigned char)*at) != 0;
    }
    if (!upper || lower) {
        *ret_error = call_raise("TypeError", "signal name must be uppercase string.");
        return 0;
    }
    name += strncmp(name, "SIG", 3) == 0 ? 3 : 0;
    int found = signal_by_name(name);
    if (!found)
        *ret_error = call_raise("AttributeError", "module 'signal' has no attribute 'SIG%s'", name);
    return found;
}

/* --- by id ------------------------------------------------------------------------------------ */

/* {'a', 'b'}, or a, b when `plain`. */
static char *print_ids(const char *const *ids, size_t n, bool plain)
{
    struct buf out = BUF_INIT(1 << 26);
    buf_str(&out, plain ? "" : n ? "{" : "set()");
    for (size_t i = 0; i < n; i++) {
        cJSON id = {.type = cJSON_String, .valuestring = (char *)ids[i]};
        char *repr = plain ? mem_dup(ids[i]) : call_repr(&id);
        buf_printf(&out, "%s%s", i ? ", " : "", repr);
        free(repr);
    }
    if (!plain && n)
        buf_char(&out, '}');
    return buf_take(&out);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Celery makes a set of them. */
static size_t drop_doubles(const char **ids, size_t n)
{
    size_t kept = 0;
    qsort(ids, n, sizeof *ids, by_text);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || strcmp(ids[i], ids[kept - 1]) != 0)
            ids[kept++] = ids[i];
    return kept;
}

static cJSON *terminated(cJSON *found)
{
    const cJSON *id;
    struct buf out = BUF_INIT(1 << 26);
    cJSON_ArrayForEach(id, found)
        buf_printf(&out, "%s%s", out.size ? ", " : "", id->valuestring);
    cJSON *reply = out.size ? call_ok("terminate: %s", out.data)
                            : call_ok("terminate: tasks unknown");
    buf_done(&out);
    cJSON_Delete(found);
    return reply;
}

/* The first that is no text; NULL: there is none. */
static const cJSON *find_other(const cJSON *ids)
{
    const cJSON *id = cJSON_IsArray(ids) ? ids->child : ids;
    for (; id; id = cJSON_IsArray(ids) ? id->next : NULL)
        if (!cJSON_IsString(id))
            return id;
    return NULL;
}

static cJSON *revoke_ids(struct call *call, bool terminate)
{
    cJSON *error = call_unhashable(call_argument(call, "task_id")), *reply;
    const cJSON *other = find_other(call_argument(call, "task_id"));
    if (error)
        return error;
    if (other)
        return call_raise("TypeError", "sequence item 0: expected str instance, %s found",
                          call_type(other));
    int number = signal_of(call_argument(call, "signal"), &error);
    if (terminate && error)
        return error;
    cJSON_Delete(error);
    size_t n;
    const char **ids = call_texts(call, "task_id", &n);
    n = drop_doubles(ids, n);
    cJSON *found = flow_revoke(call->worker, ids, n, terminate, number ? number : SIGTERM);
    if (terminate) {
        reply = terminated(found);
    } else {
        char *plain = print_ids(ids, n, true), *set = print_ids(ids, n, false);
        log_info("Tasks flagged as revoked: %s", plain);
        reply = call_ok("tasks %s flagged as revoked", set);
        cJSON_Delete(found);
        free(plain);
        free(set);
    }
    free(ids);
    return reply;
}

cJSON *call_revoke(struct call *call)
{
    return revoke_ids(call, call_flag(call, "terminate"));
}

cJSON *call_terminate(struct call *call)
{
    return revoke_ids(call, true);
}

/* --- by stamp --------------------------------------------------------------------------------- */

/* Of members with one name the last stays: what the parser does. Takes object. */
static cJSON *merged(cJSON *object)
{
    char *text = json_text(object);
    cJSON_Delete(object);
    object = json_parse(text, strlen(text), NULL);
    free(text);
    return object;
}

/* ["k=v"] as {"k": "v"}; NULL: not of that form. Caller frees. */
static cJSON *headers_of(const cJSON *list)
{
    cJSON *headers = cJSON_CreateObject();
    const cJSON *item;
    cJSON_ArrayForEach(item, list) {
        const char *equals = cJSON_IsString(item) ? strchr(item->valuestring, '=') : NULL;
        if (!equals) {
            cJSON_Delete(headers);
            return NULL;
        }
        char *name = mem_ndup(item->valuestring, (size_t)(equals - item->valuestring));
        char *value = mem_ndup(equals + 1, strcspn(equals + 1, "="));
        cJSON_AddItemToObject(headers, name, cJSON_CreateString(value));
        free(name);
        free(value);
    }
    return merged(headers);
}

/* defaultdict(<class 'set'>, {'k': {'v'}}) */
static char *print_found(const cJSON *found)
{
    struct buf out = BUF_INIT(1 << 24);
    const cJSON *values, *value;
    buf_str(&out, "defaultdict(<class 'set'>, {");
    cJSON_ArrayForEach(values, found) {
        const char *separator = "{";
        buf_printf(&out, "%s'%s': ", values == found->child ? "" : ", ", values->string);
        cJSON_ArrayForEach(value, values) {
            char *repr = call_repr(value);
            buf_printf(&out, "%s%s", separator, repr);
            separator = ", ";
            free(repr);
        }
        buf_str(&out, "}");
    }
    buf_str(&out, "})");
    return buf_take(&out);
}

/* Ours: Celery knows no way back but code in the worker. Celery's own integration suite needs
 * one. */
cJSON *call_revoked_stamps_clear(struct call *call)
{
    revoked_forget_stamps(call->worker);
    return call_ok("revoked stamps forgotten");
}

cJSON *call_revoke_by_stamped_headers(struct call *call)
{
    const cJSON *given = call_argument(call, "headers");
    bool terminate = call_flag(call, "terminate");
    cJSON *error, *reply;
    int number = signal_of(call_argument(call, "signal"), &error);
    if (error)
        return error;
    cJSON *headers = cJSON_IsArray(given) ? headers_of(given) : cJSON_Duplicate(given, true);
    if (!cJSON_IsObject(headers)) {
        cJSON_Delete(headers);
        return cJSON_IsArray(given)
                   ? call_raise("IndexError", "list index out of range")
                   : call_raise("AttributeError", "'%s' object has no attribute 'items'",
                                call_type(given));
    }
    cJSON *found = flow_revoke_stamped(call->worker, headers, terminate, number);
    char *text = found && found->child ? print_found(found) : call_repr(headers);
    if (!terminate)
        reply = call_ok("headers %s flagged as revoked, but not terminated", text);
    else if (found && found->child)
        reply = call_ok("headers %s revoked", text);
    else
        reply = call_ok("headers %s were not terminated", text);
    free(text);
    cJSON_Delete(found);
    cJSON_Delete(headers);
    return reply;
}

/* --- limits ----------------------------------------------------------------------------------- */

static cJSON *unknown_task(const struct call *call, const char *what)
{
    const cJSON *name = call_argument(call, "task_name");
    if (cJSON_IsArray(name) || cJSON_IsObject(name))
        return call_raise("TypeError", "unhashable type: '%s'", call_type(name));
    log_error("%s attempt for unknown task %s", what,
              cJSON_IsString(name) ? name->valuestring : "None");
    return call_nok("unknown task");
}

/* What Celery's rate() raises for a text that is none. */
static cJSON *bad_rate(const char *limit)
{
    const char *slash = strchr(limit, '/');
    char *number = mem_ndup(limit, slash ? (size_t)(slash - limit) : strlen(limit));
    double ignored;
    cJSON *reply;
    if (slash && settings_number(number, strlen(number), &ignored)) {
        reply = call_raise("KeyError", "%s", slash + 1);
    } else {
        cJSON text = {.type = cJSON_String, .valuestring = number};
        char *repr = call_repr(&text);
        reply = call_nok("Invalid rate limit string: ValueError(\"could not convert string to "
                         "float: %s\")",
                         repr);
        free(repr);
    }
    free(number);
    return reply;
}

cJSON *call_rate_limit(struct call *call)
{
    const char *task = json_get_string(call->arguments, "task_name");
    const cJSON *value = call_argument(call, "rate_limit");
    char *limit = cJSON_IsString(value)   ? mem_dup(value->valuestring)
                  : cJSON_IsNumber(value) ? json_text(value)
                                          : NULL;
    if ((cJSON_IsArray(value) || cJSON_IsObject(value)) && value->child)
        return call_raise("TypeError",
                          "float() argument must be a string or a real number, not '%s'",
                          call_type(value));
    bool off = !limit || !*limit || (cJSON_IsNumber(value) && value->valuedouble == 0);
    struct error err = {0};
    int code = rate_set(call->worker, task ? task : "", limit, &err);
    cJSON *reply;
    if (code == ERROR_NOT_FOUND) {
        reply = unknown_task(call, "Rate limit");
    } else if (code < 0) {
        reply = bad_rate(limit);
    } else if (off) {
        log_info("Rate limits disabled for tasks of type %s", task);
        reply = call_ok("rate limit disabled successfully");
    } else {
        log_info("New rate limit for tasks of type %s: %s.", task, limit);
        reply = call_ok("new rate limit set successfully");
    }
    free(limit);
    return reply;
}

cJSON *call_time_limit(struct call *call)
{
    const char *task = json_get_string(call->arguments, "task_name");
    const cJSON *soft = call_argument(call, "soft"), *hard = call_argument(call, "hard");
    int def = task ? registry_find(task) : -1;
    if (def < 0)
        return unknown_task(call, "Change time limit");
    char *soft_text = call_repr(soft), *hard_text = call_repr(hard);
    registry[def].soft_limit = cJSON_IsNumber(soft) ? soft->valuedouble : 0;
    registry[def].hard_limit = cJSON_IsNumber(hard) ? hard->valuedouble : 0;
    log_info("New time limits for tasks of type %s: soft=%s hard=%s", task, soft_text, hard_text);
    free(soft_text);
    free(hard_text);
    return call_ok("time limits set successfully");
}
