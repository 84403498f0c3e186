/* SPDX-License-Identifier: Apache-2.0 */
/* The tasks of Celery's own integration suite (t/integration/tasks.py of its source distribution), in C:
 * same names, same meaning. Where a task talks to Redis, it does so on a connection of its own, as there
 * (environment REDIS_HOST, REDIS_PORT, database 0). */

#include "tasks/cworker.h"

#include <hiredis/hiredis.h>
#include <math.h>
#include <mongoc/mongoc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define T "t.integration.tasks."

/* --- small helpers -------------------------------------------------------------------------------- */

static cJSON *copy(const cJSON *value)
{
    return value ? cJSON_Duplicate(value, true) : cJSON_CreateNull();
}

static cJSON *call(const char *task, cJSON *args)
{
    char name[80];
    snprintf(name, sizeof name, T "%s", task);
    return cw_sig((struct cw_send){.task = name, .args = args});
}

static cJSON *immutable(const char *task, cJSON *args)
{
    char name[80];
    snprintf(name, sizeof name, T "%s", task);
    return cw_sig((struct cw_send){.task = name, .args = args, .immutable = true});
}

static cJSON *list(int n, cJSON *const *items)
{
    cJSON *array = cJSON_CreateArray();
    for (int i = 0; i < n; i++)
        cJSON_AddItemToArray(array, items[i]);
    return array;
}
#define LIST(...)                                                                                  \
    list((int)(sizeof((cJSON *[]){__VA_ARGS__}) / sizeof(cJSON *)), (cJSON *[]){__VA_ARGS__})

static cJSON *number(double value)
{
    return cJSON_CreateNumber(value);
}

static cJSON *text(const char *value)
{
    return value ? cJSON_CreateString(value) : cJSON_CreateNull();
}

/* One command on a connection of its own; < 0 having raised nothing. */
static int redis_tell(const char *command, const char *key, const char *value)
{
    const char *host = getenv("REDIS_HOST"), *port = getenv("REDIS_PORT");
    redisContext *c = redisConnect(host ? host : "localhost", port ? (int)strtol(port, NULL, 10) : 6379);
    redisReply *reply = NULL;
    if (c && !c->err)
        reply = value ? redisCommand(c, "%s %s %s", command, key, value)
                      : redisCommand(c, "%s %s", command, key);
    int code = reply && reply->type != REDIS_REPLY_ERROR ? 0 : -1;
    freeReplyObject(reply);
    redisFree(c);
    return code;
}

static cw_outcome redis_done(cw_task *t, int code, cJSON *value)
{
    if (code == 0)
        return cw_return(t, value);
    cJSON_Delete(value);
    return cw_raise(t, "ConnectionError", "no Redis at REDIS_HOST, REDIS_PORT");
}

/* --- arithmetic ------------------------------------------------------------------------------------ */

/* Python's `+` for what the suite adds: numbers, strings, lists. NULL: TypeError. */
static cJSON *plus(const cJSON *x, const cJSON *y)
{
    if (cJSON_IsNumber(x) && cJSON_IsNumber(y))
        return number(x->valuedouble + y->valuedouble);
    if (cJSON_IsString(x) && cJSON_IsString(y)) {
        size_t size = strlen(x->valuestring) + strlen(y->valuestring) + 1;
        char *joined = malloc(size);
        snprintf(joined, size, "%s%s", x->valuestring, y->valuestring);
        cJSON *sum = cJSON_CreateString(joined);
        free(joined);
        return sum;
    }
    if (cJSON_IsArray(x) && cJSON_IsArray(y)) {
        cJSON *sum = copy(x);
        for (const cJSON *item = y->child; item; item = item->next)
            cJSON_AddItemToArray(sum, copy(item));
        return sum;
    }
    return NULL;
}

static const char *type_name(const cJSON *v)
{
    return cJSON_IsString(v)                                              ? "str"
           : cJSON_IsArray(v)                                             ? "list"
           : cJSON_IsNull(v)                                              ? "NoneType"
           : cJSON_IsNumber(v) && v->valuedouble == trunc(v->valuedouble) ? "int"
           : cJSON_IsNumber(v)                                            ? "float"
                                                                          : "dict";
}

static cw_outcome not_added(cw_task *t, const cJSON *x, const cJSON *y)
{
    return cw_raise(t, "TypeError", "unsupported operand type(s) for +: '%s' and '%s'", type_name(x),
                    type_name(y));
}

static cw_outcome add(cw_task *t)
{
    const cJSON *x = cw_json(t, "x"), *y = cw_json(t, "y"), *z = cw_json(t, "z");
    cJSON *sum = plus(x, y);
    if (!sum)
        return not_added(t, x, y);
    if (z && !cJSON_IsNull(z) && !(cJSON_IsNumber(z) && z->valuedouble == 0)) {
        cJSON *all = plus(sum, z);
        cJSON_Delete(sum);
        sum = all;
    }
    return sum ? cw_return(t, sum) : not_added(t, x, z);
}

static cw_outcome add_not_typed(cw_task *t)
{
    const cJSON *args = cw_args(t);
    if (cJSON_GetArraySize(args) != 2)
        return cw_raise(t, "TypeError", "add_not_typed() takes 2 positional arguments");
    cJSON *sum = plus(args->child, args->child->next);
    return sum ? cw_return(t, sum) : not_added(t, args->child, args->child->next);
}

static cw_outcome mul(cw_task *t)
{
    return cw_return(t, number(cw_num(t, "x") * cw_num(t, "y")));
}

static double sum_of(const cJSON *numbers)
{
    double sum = 0;
    for (const cJSON *v = numbers->child; v; v = v->next)
        sum += cJSON_IsArray(v) ? sum_of(v) : v->valuedouble;
    return sum;
}

static cw_outcome tsum(cw_task *t)
{
    for (const cJSON *v = cw_json(t, "nums")->child; v; v = v->next)
        if (!cJSON_IsNumber(v))
            return cw_raise(t, "TypeError", "unsupported operand type(s) for +: 'int' and '%s'",
                            type_name(v));
    return cw_return(t, number(sum_of(cw_json(t, "nums"))));
}

static cw_outcome xsum(cw_task *t)
{
    return cw_return(t, number(sum_of(cw_json(t, "nums"))));
}

static cw_outcome delayed_sum(cw_task *t)
{
    if (cw_sleep(t, cw_num(t, "pause_time")) < 0)
        return cw_stopped(t);
    return cw_return(t, number(sum_of(cw_json(t, "numbers"))));
}

static cw_outcome delayed_sum_with_soft_guard(cw_task *t)
{
    if (cw_sleep(t, cw_num(t, "pause_time")) < 0)
        return cw_stopping(t) == CW_SOFT_LIMIT ? cw_return_int(t, 0) : cw_stopped(t);
    return cw_return(t, number(sum_of(cw_json(t, "numbers"))));
}

static cw_outcome add_pydantic(cw_task *t)
{
    const cJSON *data = cw_json(t, "data");
    cJSON *sum = cJSON_CreateObject();
    const cJSON *x = cJSON_GetObjectItem(data, "x"), *y = cJSON_GetObjectItem(data, "y");
    cJSON_AddNumberToObject(sum, "result", (x ? x->valuedouble : 0) + (y ? y->valuedouble : 0));
    return cw_return(t, sum);
}

/* --- values, errors -------------------------------------------------------------------------------- */

static cw_outcome identity(cw_task *t)
{
    return cw_return(t, copy(cw_json(t, "x")));
}

static cw_outcome ping(cw_task *t)
{
    return cw_return_str(t, "pong");
}

static cw_outcome print_unicode(cw_task *t)
{
    cw_log(t, CW_WARNING, "%s", "h\u00e5\u00e5\u00ae\u0192 valmuefr\u00f8");
    return cw_return(t, NULL);
}

static cw_outcome sleeping(cw_task *t)
{
    const cJSON *seconds = cw_args(t)->child;
    if (cw_sleep(t, seconds ? seconds->valuedouble : 0) < 0)
        return cw_stopped(t);
    return cw_return(t, NULL);
}

static cw_outcome return_exception(cw_task *t)
{
    return cw_return(t, LIST(copy(cw_args(t)->child), cJSON_CreateTrue()));
}

static cw_outcome write_to_file_and_return_int(cw_task *t)
{
    FILE *file = fopen(cw_str(t, "file_name"), "ae");
    if (!file)
        return cw_raise(t, "OSError", "cannot open %s", cw_str(t, "file_name"));
    fprintf(file, "%lld\n", (long long)cw_int(t, "i"));
    fclose(file);
    return cw_return_int(t, cw_int(t, "i"));
}

static cw_outcome raise_error(cw_task *t)
{
    return cw_raise(t, "ValueError", "deliberate error");
}

static cw_outcome fail(cw_task *t)
{
    cJSON *args = LIST(text("Task expected to fail"));
    for (const cJSON *item = cw_args(t)->child; item; item = item->next)
        cJSON_AddItemToArray(args, copy(item));
    return cw_raise_args(t, T "ExpectedException", args);
}

static cw_outcome fail_unpickleable(cw_task *t)
{
    return cw_raise_args(t, T "UnpickleableException", LIST(copy(cw_json(t, "foo"))));
}

static cJSON *ids_of(cw_task *t)
{
    const struct cw_info *info = cw_info(t);
    return LIST(text(info->root_id), text(info->parent_id), copy(cw_json(t, "i")));
}

static cw_outcome ids(cw_task *t)
{
    return cw_return(t, ids_of(t));
}

static cw_outcome collect_ids(cw_task *t)
{
    return cw_return(t, LIST(copy(cw_json(t, "res")), ids_of(t)));
}

static cw_outcome return_properties(cw_task *t)
{
    return cw_return(t, copy(cw_properties(t)));
}

static const cJSON *priority(cw_task *t)
{
    return cJSON_GetObjectItemCaseSensitive(cw_properties(t), "priority");
}

static cw_outcome return_priority(cw_task *t)
{
    const cJSON *found = priority(t);
    return cw_return_str(t, cw_printf(t, "Priority: %d", found ? found->valueint : 0));
}

static cw_outcome replaced_with_me(cw_task *t)
{
    return cw_return_bool(t, true);
}

/* --- retries ----------------------------------------------------------------------------------------- */

/* Counts its attempts in the process, as the suite's does: it is run with one child. */
static cw_outcome retry(cw_task *t)
{
    static int attempt;
    if (cw_str(t, "return_value") && attempt++ >= 3) {
        attempt = 0;
        return cw_return_str(t, cw_str(t, "return_value"));
    }
    return cw_retry(t, 5, T "ExpectedException", "%s", "");
}

static cw_outcome retry_unpickleable(cw_task *t)
{
    const cJSON *countdown =
        cJSON_GetObjectItemCaseSensitive(cw_json(t, "retry_kwargs"), "countdown");
    return cw_retry(t, countdown ? countdown->valuedouble : -1, T "UnpickleableException", "%s",
                    cw_str(t, "foo"));
}

static double countdown_of(cw_task *t)
{
    const cJSON *countdown = cJSON_GetObjectItemCaseSensitive(cw_kwargs(t), "countdown");
    return countdown ? countdown->valuedouble : 0.1;
}

static cw_outcome retry_once(cw_task *t)
{
    int64_t retries = cw_info(t)->retries;
    return retries ? cw_return_int(t, retries) : cw_retry(t, countdown_of(t), NULL, "%s", "");
}

static cw_outcome retry_once_priority(cw_task *t)
{
    if (!cw_info(t)->retries)
        return cw_retry(t, countdown_of(t), NULL, "%s", "");
    return cw_return(t, copy(priority(t)));
}

static cw_outcome retry_once_headers(cw_task *t)
{
    if (!cw_info(t)->retries)
        return cw_retry(t, countdown_of(t), NULL, "%s", "");
    return cw_return(t, copy(cw_info(t)->headers));
}

static cw_outcome auto_retry(cw_task *t)
{
    int64_t retries = cw_info(t)->retries;
    return retries ? cw_return_int(t, retries) : cw_raise_args(t, "ValueError", cJSON_CreateArray());
}

static cw_outcome reject_then_succeed(cw_task *t)
{
    return cw_info(t)->redelivered ? cw_return_str(t, "second-pass") : cw_reject(t, true);
}

static int store_document(cw_task *t, const char *status, const char *result)
{
    mongoc_collection_t *results = cw_collection(t, "celery_taskmeta");
    if (!results)
        return -1;
    /* All that Celery's client takes for given, with result_extended too. */
    bson_t *document = BCON_NEW("_id", BCON_UTF8(cw_info(t)->id), "status", BCON_UTF8(status),
                                "result", BCON_UTF8(result), "traceback", BCON_NULL, "children", "[",
                                "]", "date_done", BCON_NULL, "name", BCON_NULL, "args", BCON_NULL,
                                "kwargs", BCON_NULL, "worker", BCON_NULL, "queue", BCON_NULL,
                                "retries", BCON_INT32(0));
    /* Its STARTED may be there already. */
    bson_t *selector = BCON_NEW("_id", BCON_UTF8(cw_info(t)->id));
    bson_t *upsert = BCON_NEW("upsert", BCON_BOOL(true));
    bson_error_t why;
    bool ok = mongoc_collection_replace_one(results, selector, document, upsert, NULL, &why);
    if (!ok)
        cw_problem(t, true, "RuntimeError", "%s", why.message);
    bson_destroy(upsert);
    bson_destroy(selector);
    bson_destroy(document);
    return ok ? 0 : -1;
}

/* Stores SUCCESS itself, then goes back: what was stored is what its chain goes on with. */
static cw_outcome store_success_then_reject(cw_task *t)
{
    if (cw_info(t)->redelivered)
        return cw_return_str(t, "dedup-pass");
    const char *database = getenv("CWORKER_APP_DATABASE_URL");
    if (database && *database)
        return store_document(t, "SUCCESS", "\"first-pass\"") < 0 ? cw_fail(t) : cw_reject(t, true);
    char *key = cw_printf(t, "celery-task-meta-%s", cw_info(t)->id);
    redis_tell("SET", key, cw_printf(t, "{\"status\": \"SUCCESS\", \"result\": \"first-pass\", "
                                        "\"traceback\": null, \"children\": [], \"task_id\": \"%s\"}",
                                     cw_info(t)->id));
    return cw_reject(t, true);
}

/* --- Redis ------------------------------------------------------------------------------------------- */

static cw_outcome redis_echo(cw_task *t)
{
    const cJSON *message = cw_json(t, "message");
    if (cJSON_HasObjectItem(message, "__value__")) /* Python's bytes, as Kombu sends them */
        message = cJSON_GetObjectItemCaseSensitive(message, "__value__");
    char *printed = cJSON_IsString(message) ? NULL : cJSON_PrintUnformatted(message);
    int code = redis_tell("RPUSH", cw_str(t, "redis_key"), printed ? printed : message->valuestring);
    free(printed);
    return redis_done(t, code, NULL);
}

static cw_outcome redis_echo_group_id(cw_task *t)
{
    const char *group = cw_info(t)->group_id;
    return redis_done(t, redis_tell("RPUSH", cw_str(t, "redis_key"), group ? group : ""), NULL);
}

static cw_outcome redis_count(cw_task *t)
{
    return redis_done(t, redis_tell("INCR", cw_str(t, "redis_key"), NULL), NULL);
}

static cw_outcome errback_old_style(cw_task *t)
{
    return redis_done(t, redis_tell("INCR", cw_str(t, "request_id"), NULL),
                      text(cw_str(t, "request_id")));
}

/* --- canvases ---------------------------------------------------------------------------------------- */

static cw_outcome add_replaced(cw_task *t)
{
    return cw_replace(t, call("add", LIST(copy(cw_json(t, "x")), copy(cw_json(t, "y")))));
}

static cw_outcome fail_replaced(cw_task *t)
{
    return cw_replace(t, immutable("fail", copy(cw_args(t))));
}

static cJSON *echo_of(cw_task *t)
{
    const char *message = cw_str(t, "link_msg");
    return message ? immutable("redis_echo", LIST(text(message))) : call("redis_echo", NULL);
}

/* The arguments that came by position: link_msg comes by name alone. */
static cw_outcome replace_with_chain(cw_task *t)
{
    cJSON *chain = cw_chain(LIST(call("identity", copy(cw_args(t))), call("identity", NULL)));
    cw_link(chain, echo_of(t));
    return cw_replace(t, chain);
}

static cw_outcome replace_with_chain_which_raises(cw_task *t)
{
    cJSON *chain = cw_chain(LIST(call("identity", copy(cw_args(t))), call("raise_error", NULL)));
    cw_link_error(chain, echo_of(t));
    return cw_replace(t, chain);
}

static cw_outcome replace_with_empty_chain(cw_task *t)
{
    return cw_replace(t, cw_chain(cJSON_CreateArray()));
}

static cJSON *additions(cw_task *t)
{
    cJSON *parts = cJSON_CreateArray();
    for (const cJSON *n = cw_json(t, "nums")->child; n; n = n->next)
        cJSON_AddItemToArray(parts, call("add", LIST(copy(n), copy(cw_json(t, "val")))));
    return parts;
}

static cw_outcome add_to_all(cw_task *t)
{
    return cw_replace(t, cw_group(additions(t)));
}

static cw_outcome add_to_all_to_chord(cw_task *t)
{
    cJSON *parts = additions(t);
    int code = 0;
    while (parts->child && code == 0)
        code = cw_add_to_chord(t, cJSON_DetachItemFromArray(parts, 0));
    cJSON_Delete(parts);
    return code < 0 ? cw_fail(t) : cw_return_int(t, 0);
}

static cw_outcome add_chord_to_chord(cw_task *t)
{
    if (cw_add_to_chord(t, cw_chord(additions(t), call("tsum", NULL))) < 0)
        return cw_fail(t);
    return cw_return_int(t, 0);
}

/* A replacement of a replacement: each level says when it enters and when it leaves. */
static cw_outcome second_order(cw_task *t, const char *enters, const char *leaves, cJSON *inner,
                               const char *self)
{
    bool state = cw_bool(t, "state");
    if (redis_tell("RPUSH", "redis-echo", state ? leaves : enters) < 0 || state) {
        cJSON_Delete(inner);
        return redis_done(t, 0, NULL);
    }
    return cw_replace(t, cw_chain(LIST(inner, immutable(self, LIST(cJSON_CreateTrue())))));
}

static cw_outcome second_order_replace1(cw_task *t)
{
    return second_order(t, "In A", "Out A", call("second_order_replace2", NULL),
                        "second_order_replace1");
}

static cw_outcome second_order_replace2(cw_task *t)
{
    return second_order(t, "In B", "Out B", call("redis_echo", LIST(text("In/Out C"))),
                        "second_order_replace2");
}

static cw_outcome replace_with_stamped_task(cw_task *t)
{
    const cJSON *given = cw_json(t, "replace_with");
    cJSON *sig = cJSON_IsObject(given) ? copy(given) : call("replaced_with_me", NULL);
    cJSON *options = cJSON_GetObjectItemCaseSensitive(sig, "options");
    cJSON_AddItemToObject(options, "stamped_headers", LIST(text("StampOnReplace")));
    cJSON_AddStringToObject(options, "StampOnReplace", "This is the replaced task");
    return cw_replace(t, sig);
}

/* Returns what Python's AsyncResult.as_tuple() of the chain is: [[id, parent], children]. */
static cw_outcome build_chain_inside_task(cw_task *t)
{
    char id[CW_ID_SIZE];
    cJSON *one = call("add", LIST(number(1), number(1)));
    cJSON *pair = cw_group(LIST(call("add", LIST(number(3))), call("add", LIST(number(4)))));
    cJSON *chain =
        cw_chain(LIST(one, call("add", LIST(number(2))), pair, call("add", LIST(number(5)))));
    if (cw_apply(t, chain, id) < 0)
        return cw_fail(t);
    cJSON *parent = LIST(LIST(text(cw_info(t)->id), cJSON_CreateNull()), cJSON_CreateNull());
    return cw_return(t, LIST(LIST(text(id), parent), cJSON_CreateNull()));
}

/* return_nested_signature_OUTER_INNER: signatures that nobody runs. The test rebuilds them. */
static cJSON *nested(const char *kind, cJSON *inner)
{
    if (strcmp(kind, "chain") == 0)
        return cw_chain(LIST(inner));
    if (strcmp(kind, "group") == 0)
        return cw_group(LIST(inner));
    return cw_chord(LIST(inner), call("add", NULL));
}

static cw_outcome return_nested_signature(cw_task *t)
{
    static const char *const kinds[] = {"chain", "group", "chord"};
    char outer[8], inner[8];
    const char *words = cw_info(t)->name + strlen(T "return_nested_signature_");
    if (sscanf(words, "%7[a-z]_%7[a-z]", outer, inner) != 2)
        return cw_raise(t, "ValueError", "which signature is %s?", words);
    for (int i = 0; i < 3; i++)
        if (strcmp(outer, kinds[i]) == 0)
            return cw_return(t, nested(outer, nested(inner, call("add", NULL))));
    return cw_raise(t, "ValueError", "which signature is %s?", words);
}

static bool is_signature(const cJSON *sig)
{
    const cJSON *kwargs = cJSON_GetObjectItemCaseSensitive(sig, "kwargs");
    const cJSON *kind = cJSON_GetObjectItemCaseSensitive(sig, "subtask_type");
    if (!cJSON_IsString(cJSON_GetObjectItemCaseSensitive(sig, "task")))
        return false;
    const char *members = cJSON_IsString(kind) && strcmp(kind->valuestring, "chord") == 0 ? "header"
                                                                                          : "tasks";
    const cJSON *inner = cJSON_IsString(kind) ? cJSON_GetObjectItemCaseSensitive(kwargs, members) : NULL;
    if (cJSON_IsObject(inner))
        return is_signature(inner);
    for (const cJSON *part = inner ? inner->child : NULL; part; part = part->next)
        if (!is_signature(part))
            return false;
    const cJSON *body = cJSON_GetObjectItemCaseSensitive(kwargs, "body");
    return !cJSON_IsObject(body) || is_signature(body);
}

static cw_outcome rebuild_signature(cw_task *t)
{
    if (!is_signature(cw_json(t, "sig_dict")))
        return cw_raise(t, "TypeError", "this is not a signature object");
    return cw_return(t, NULL);
}

/* --- the tables ---------------------------------------------------------------------------------------- */

#define ARGS(name, ...) static const struct cw_arg name##_args[] = {__VA_ARGS__, {0}}

ARGS(x, {"x", CW_ANY});
ARGS(add, {"x", CW_ANY}, {"y", CW_ANY}, {"z", CW_ANY, "null"});
ARGS(mul, {"x", CW_NUM}, {"y", CW_NUM});
ARGS(nums, {"nums", CW_LIST});
ARGS(sum, {"numbers", CW_LIST}, {"pause_time", CW_NUM, "1"});
ARGS(data, {"data", CW_OBJECT});
ARGS(file, {"file_name", CW_STR}, {"i", CW_INT});
ARGS(foo, {"foo", CW_ANY}, {"bar", CW_ANY});
ARGS(i, {"i", CW_ANY});
ARGS(collect, {"res", CW_ANY}, {"i", CW_ANY});
ARGS(retry, {"return_value", CW_ANY, "null"});
ARGS(unpickleable, {"foo", CW_ANY}, {"bar", CW_ANY}, {"retry_kwargs", CW_OBJECT});
ARGS(echo, {"message", CW_ANY}, {"redis_key", CW_STR, "\"redis-echo\""});
ARGS(group_id, {"_", CW_ANY}, {"redis_key", CW_STR, "\"redis-group-ids\""});
ARGS(count, {"redis_key", CW_STR, "\"redis-count\""});
ARGS(request_id, {"request_id", CW_STR});
ARGS(state, {"state", CW_BOOL, "false"});
ARGS(all, {"nums", CW_LIST}, {"val", CW_ANY});
ARGS(replace, {"replace_with", CW_ANY, "null"});
ARGS(sig, {"sig_dict", CW_OBJECT});

#define TASK(called, function, ...) {.name = T called, .run = function, __VA_ARGS__}
#define NESTED(outer)                                                                              \
    TASK("return_nested_signature_" outer "_chain", return_nested_signature),                      \
        TASK("return_nested_signature_" outer "_group", return_nested_signature),                  \
        TASK("return_nested_signature_" outer "_chord", return_nested_signature)
#define ANY .flags = CW_ANY_ARGS

static const char *const value_errors[] = {"ValueError", NULL};

static const struct cw_def defs[] = {
    {.name = "celery.ping", .run = ping},
    TASK("identity", identity, .args = x_args),
    TASK("add", add, .args = add_args),
    TASK("add_not_typed", add_not_typed, ANY),
    TASK("add_ignore_result", add, .args = add_args, .flags = CW_IGNORE_RESULT),
    TASK("mul", mul, .args = mul_args),
    TASK("tsum", tsum, .args = nums_args),
    TASK("xsum", xsum, .args = nums_args),
    TASK("delayed_sum", delayed_sum, .args = sum_args),
    TASK("delayed_sum_with_soft_guard", delayed_sum_with_soft_guard, .args = sum_args),
    TASK("add_pydantic", add_pydantic, .args = data_args),
    TASK("add_pydantic_string_annotations", add_pydantic, .args = data_args),
    TASK("print_unicode", print_unicode, ANY),
    TASK("sleeping", sleeping, ANY),
    TASK("return_exception", return_exception, ANY),
    TASK("write_to_file_and_return_int", write_to_file_and_return_int, .args = file_args),
    TASK("raise_error", raise_error, ANY),
    TASK("fail", fail, ANY),
    TASK("fail_unpickleable", fail_unpickleable, .args = foo_args),
    TASK("ids", ids, .args = i_args),
    TASK("collect_ids", collect_ids, .args = collect_args),
    TASK("return_properties", return_properties),
    TASK("return_priority", return_priority, ANY),
    TASK("replaced_with_me", replaced_with_me),
    TASK("retry", retry, .args = retry_args, .default_retry_delay = 1),
    TASK("retry_unpickleable", retry_unpickleable, .args = unpickleable_args,
         .default_retry_delay = 1),
    TASK("retry_once", retry_once, ANY, .max_retries = 1),
    TASK("retry_once_priority", retry_once_priority, ANY, .max_retries = 1),
    TASK("retry_once_headers", retry_once_headers, ANY, .max_retries = 1),
    {.name = "auto_retry_class_task", .run = auto_retry, .max_retries = 1,
     .autoretry_for = value_errors, .backoff = {.base = 1}},
    TASK("reject_then_succeed", reject_then_succeed, .flags = CW_ACKS_LATE),
    TASK("store_success_then_reject", store_success_then_reject, .flags = CW_ACKS_LATE),
    TASK("redis_echo", redis_echo, .args = echo_args),
    TASK("redis_echo_group_id", redis_echo_group_id, .args = group_id_args),
    TASK("redis_count", redis_count, .args = count_args),
    TASK("errback_old_style", errback_old_style, .args = request_id_args),
    TASK("errback_new_style", errback_old_style, .args = request_id_args),
    TASK("add_replaced", add_replaced, .args = mul_args),
    TASK("fail_replaced", fail_replaced, ANY),
    TASK("replace_with_chain", replace_with_chain, ANY),
    TASK("replace_with_chain_which_raises", replace_with_chain_which_raises, ANY),
    TASK("replace_with_empty_chain", replace_with_empty_chain, ANY),
    TASK("add_to_all", add_to_all, .args = all_args),
    TASK("add_to_all_to_chord", add_to_all_to_chord, .args = all_args),
    TASK("add_chord_to_chord", add_chord_to_chord, .args = all_args),
    TASK("second_order_replace1", second_order_replace1, .args = state_args),
    TASK("second_order_replace2", second_order_replace2, .args = state_args),
    TASK("replace_with_stamped_task", replace_with_stamped_task, .args = replace_args),
    TASK("build_chain_inside_task", build_chain_inside_task),
    TASK("rebuild_signature", rebuild_signature, .args = sig_args),
    NESTED("chain"),
    NESTED("group"),
    NESTED("chord"),
    {0},
};

static const struct cw_table table = {.api = CW_API, .queue = "celery", .defs = defs};
const struct cw_table *const cworker_tables[] = {&table, NULL};
