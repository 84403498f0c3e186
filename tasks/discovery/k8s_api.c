/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/discovery/k8s_api.h"

#include "tasks/lib/check.h"
#include "tasks/lib/doc.h"
#include "tasks/lib/http.h"
#include "tasks/lib/json_stream.h"

#include <string.h>

/* A page is read as it arrives: only one object is in memory. A list that is older than the server
 * remembers (410) begins again; what was seen is seen again, which is why callers write by upserts.
 * A list that expires again and again is ended by the token that the server offers instead, which
 * may miss objects: that is said, and nobody may conclude that something is gone. */

enum { RESTARTS = 2, EXPIRIES = 50, MAX_PAGES = 20000, MAX_TOKEN = 4096 };

struct walk {
    const struct k8s_list *list;
    struct json_stream *stream;
    const char *token, *next; /* of this page (NULL: the first) and of the next one */
    bool is_list;
    int page, restarts;
};

/* A token that is not understood is not the end of the list. */
static int take_token(struct walk *w, const cJSON *metadata)
{
    cw_task *t = w->list->t;
    const cJSON *value = tree_at(metadata, "continue");
    const char *token = cJSON_GetStringValue(value);
    if ((!cJSON_IsObject(metadata) && !cJSON_IsNull(metadata)) ||
        (value && !token && !cJSON_IsNull(value)) || (token && strlen(token) > MAX_TOKEN))
        return cw_problem(t, false, "ValueError", "%s: metadata.continue is not a token",
                          w->list->path);
    if (token && w->token && strcmp(token, w->token) == 0)
        return cw_problem(t, false, "ValueError", "%s: page %d leads to itself", w->list->path,
                          w->page + 1);
    w->next = token && *token ? cw_printf(t, "%s", token) : NULL;
    return 0;
}

static int on_member(cw_task *t, const char *name, const cJSON *value, void *arg)
{
    struct walk *w = arg;
    (void)t;
    if (strcmp(name, "metadata") == 0)
        return take_token(w, value);
    if (strcmp(name, "kind") == 0) {
        const char *kind = cJSON_GetStringValue(value);
        size_t size = kind ? strlen(kind) : 0;
        w->is_list = size > 4 && strcmp(kind + size - 4, "List") == 0;
    }
    return 0;
}

static int on_element(cw_task *t, const cJSON *object, void *arg)
{
    struct walk *w = arg;
    if (!cJSON_IsObject(object) || !cJSON_IsObject(tree_at(object, "metadata")))
        return cw_problem(t, false, "ValueError", "%s: an object without metadata", w->list->path);
    return w->list->on_object(t, object, w->list->arg);
}

static int on_body(cw_task *t, const char *data, size_t size, void *arg)
{
    struct walk *w = arg;
    (void)t;
    return json_stream_feed(w->stream, data, size);
}

static int request_page(struct walk *w, struct cw_reply *reply)
{
    static const char *const members[] = {"metadata", "kind", NULL};
    const struct k8s_list *l = w->list;
    cw_task *t = l->t;
    const struct k8s_config *c = l->config;
    struct json_stream_options options = {.member = "items",
                                          .needed = true,
                                          .on_element = on_element,
                                          .on_member = on_member,
                                          .members = members,
                                          .arg = w};
    const char *headers[] = {"Accept: application/json",
                             c->token ? cw_printf(t, "Authorization: Bearer %s", c->token) : NULL,
                             NULL};
    struct cw_http request = {
        .url = cw_printf(t, "%s%s?limit=%d%s%s", c->server, l->path, l->limit,
                         w->token ? "&continue=" : "", w->token ? url_escape(t, w->token) : ""),
        .headers = headers,
        .timeout = 120,
        .max_size = (size_t)1 << 30,
        .allow_private = true, /* clusters are inside; https and its CA say that it is the one */
        .no_redirects = true,
        .ca = c->ca,
        .client_cert = c->client_cert,
        .client_key = c->client_key,
        .on_body = on_body,
        .arg = w,
    };
    w->next = NULL;
    w->is_list = false;
    w->stream = json_stream_open(t, &options);
    return http_patient(t, &request, reply);
}

/* The `message` of the Status that the server answers errors with. */
static const char *status_message(cw_task *t, const struct cw_reply *reply, const char *fallback)
{
    cJSON *status = cJSON_ParseWithLength(reply->body, reply->size);
    const char *message = tree_text(status, "message");
    message = cw_printf(t, "%.500s", message ? message : fallback);
    cJSON_Delete(status);
    return message;
}

/* 410: from the beginning, or on with the token offered; 0, 1 when there is nothing to go on with.
 */
static int expired(struct walk *w, const struct cw_reply *reply)
{
    cw_task *t = w->list->t;
    w->token = NULL;
    if (w->restarts++ < RESTARTS) {
        cw_log(t, CW_INFO, "%s: the list expired while it was read: from the beginning",
               w->list->path);
        return 0;
    }
    cJSON *status =
        w->restarts > EXPIRIES ? NULL : cJSON_ParseWithLength(reply->body, reply->size);
    const char *offered = tree_text(status, "metadata.continue");
    w->token = offered && *offered ? cw_printf(t, "%s", offered) : NULL;
    cJSON_Delete(status);
    return w->token ? 0 : 1;
}

static enum k8s_listed refused(struct walk *w, const struct cw_reply *reply, const char **ret_why)
{
    cw_task *t = w->list->t;
    switch (reply->status) {
    case 401:
        return cw_problem(t, false, "PermissionError",
                          "the cluster does not accept our credentials (401 %s)",
                          status_message(t, reply, "Unauthorized"));
    case 403:
        *ret_why = status_message(t, reply, "Forbidden");
        return K8S_FORBIDDEN;
    case 404:
        *ret_why = status_message(t, reply, "the server does not know it");
        return K8S_ABSENT;
    case 400:
        return cw_problem(t, false, "ValueError", "%s: 400 %s", w->list->path,
                          status_message(t, reply, "bad request"));
    default:
        return K8S_FAILED;
    }
}

static int page_done(struct walk *w, const struct cw_reply *reply)
{
    cw_task *t = w->list->t;
    if (reply->status != 200)
        return cw_problem(t, false, "ValueError", "%s: HTTP %ld where a list was expected",
                          w->list->path, reply->status);
    if (json_stream_end(w->stream) < 0)
        return -1;
    if (!w->is_list)
        return cw_problem(t, false, "ValueError",
                          "%s: the answer is not a list: is this the API of Kubernetes?",
                          w->list->path);
    if (++w->page > MAX_PAGES)
        return cw_problem(t, false, "ValueError", "%s: more than %d pages", w->list->path,
                          MAX_PAGES);
    return w->list->on_page ? w->list->on_page(t, w->page, w->list->arg) : 0;
}

enum k8s_listed k8s_list(const struct k8s_list *list, const char **ret_why)
{
    struct walk w = {.list = list};
    *ret_why = "";
    for (;;) {
        struct cw_reply reply;
        int code = request_page(&w, &reply);
        if (code < 0 && reply.status == 410) {
            if (expired(&w, &reply) == 0)
                continue;
            *ret_why = "the list expired again and again";
            return K8S_PARTIAL;
        }
        if (code < 0)
            return refused(&w, &reply, ret_why);
        if (page_done(&w, &reply) < 0)
            return K8S_FAILED;
        w.token = w.next;
        if (!w.token)
            break;
    }
    if (w.restarts <= RESTARTS)
        return K8S_COMPLETE;
    *ret_why = "the list expired again and again: objects may be missing";
    return K8S_PARTIAL;
}
