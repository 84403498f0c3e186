/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/scans/zap.h"

#include "tasks/lib/json_stream.h"

#include <stdlib.h>
#include <string.h>

/* The key travels in a header, never in the URL, which ZAP and proxies log. A wrong key makes ZAP
 * close the connection without a word, which is told as what it most likely is. */

enum { PAGE = 500, MAX_PAGES = 200, MAX_REPLY = 16 << 20 };

static void delete_tree(void *tree)
{
    cJSON_Delete(tree);
}

static const char *base_url(cw_task *t)
{
    const char *base = cw_setting(t, "zap_url");
    base = base ? base : "http://127.0.0.1:8080";
    size_t size = strlen(base);
    while (size && base[size - 1] == '/')
        size--;
    return cw_printf(t, "%.*s", (int)size, base);
}

const char *zap_daemon(cw_task *t)
{
    const char *base = base_url(t), *slashes = strstr(base, "//"), *at = strrchr(base, '@');
    if (!slashes || !at)
        return base;
    return cw_printf(t, "%.*s%s", (int)(slashes + 2 - base), base, at + 1);
}

static struct cw_http request_make(cw_task *t, const char *path, const char *query)
{
    const char *base = base_url(t), *key = cw_secret(t, "ZAP_API_KEY");
    const char **headers = cw_alloc(t, 2 * sizeof *headers);
    if (key)
        headers[0] = cw_printf(t, "X-ZAP-API-Key: %s", key);
    return (struct cw_http){
        .url = cw_printf(t, "%s/JSON/%s%s%s", base, path, *query ? "?" : "", query),
        .headers = headers,
        .timeout = 60,
        .max_size = MAX_REPLY,
        .allow_any_status = true,
        .allow_private = true,
    };
}

static int explain(cw_task *t)
{
    bool transient;
    const char *why = cw_problem_text(t, &transient);
    if (why && strstr(why, "returned nothing"))
        return cw_problem(t, false, "PermissionError",
                          "ZAP closed the connection: is ZAP_API_KEY right, and this host allowed "
                          "to use its API?");
    return -1;
}

/* Which service it was that could not be reached, and where that is said. */
static void say_where(cw_task *t)
{
    bool transient;
    const char *why = cw_problem_text(t, &transient), *colon = why ? strstr(why, ": ") : NULL;
    if (colon && cw_stopping(t) == CW_GO)
        cw_problem(t, transient, cw_printf(t, "%.*s", (int)(colon - why), why),
                   "ZAP at %.200s (CWORKER_ZAP_URL): %s", zap_daemon(t), colon + 2);
}

const cJSON *zap_get(cw_task *t, const char *path, const char *query)
{
    struct cw_http request = request_make(t, path, query);
    struct cw_reply reply;
    if (cw_http(t, &request, &reply) < 0) {
        explain(t);
        say_where(t);
        return NULL;
    }
    cJSON *tree = cJSON_ParseWithLength(reply.body, reply.size);
    cw_defer(t, delete_tree, tree);
    const char *code = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(tree, "code"));
    if (reply.status >= 400 || !cJSON_IsObject(tree)) {
        cw_problem(t, reply.status >= 500, reply.status < 400 ? "ValueError" : "RuntimeError",
                   "ZAP answers %s with status %ld%s%.80s", path, reply.status, code ? ": " : "",
                   code ? code : "");
        return NULL;
    }
    return tree;
}

int64_t zap_number(const cJSON *reply, const char *name, int64_t fallback)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(reply, name));
    char *end = NULL;
    long long value = text ? strtoll(text, &end, 10) : 0;
    return text && *text && !*end ? value : fallback;
}

static int on_body(cw_task *t, const char *data, size_t size, void *arg)
{
    (void)t;
    return json_stream_feed(arg, data, size);
}

int zap_each_alert(cw_task *t, int (*fn)(cw_task *t, const cJSON *alert, void *arg), void *arg)
{
    struct json_stream_options options = {
        .member = "alerts", .needed = true, .on_element = fn, .arg = arg};
    for (int page = 0; page < MAX_PAGES; page++) {
        struct json_stream *stream = json_stream_open(t, &options);
        struct cw_reply reply;
        const char *query = cw_printf(t, "start=%d&count=%d", page * PAGE, PAGE);
        struct cw_http request = request_make(t, "core/view/alerts/", query);
        request.on_body = on_body;
        request.arg = stream;
        request.allow_any_status = false;
        if (cw_http(t, &request, &reply) < 0)
            return explain(t);
        if (json_stream_end(stream) < 0)
            return -1;
        if (json_stream_count(stream) < PAGE)
            return 0;
    }
    return 1;
}
