/* SPDX-License-Identifier: Apache-2.0 */
/* The request's states: which moves there are, and the one function that makes them. */

#include "worker/request.h"

#include "proto/base/mem.h"
#include "worker/log.h"
#include "worker/unique.h"
#include "worker/worker.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[] = {
#define REQUEST_NAME(name) #name,
    REQUEST_STATES(REQUEST_NAME)
#undef REQUEST_NAME
};

static const char deliveries_header[] = "cworker_deliveries";
static const char told_header[] = "cworker_told";

#define TO(name) (1u << REQUEST_##name)

static const unsigned moves[] = {
    [REQUEST_RECEIVED] =
        TO(CHECKING) | TO(LEASING) | TO(LIMITED) | TO(READY) | TO(STORING) | TO(SETTLING),
    [REQUEST_CHECKING] = TO(LEASING) | TO(LIMITED) | TO(READY) | TO(PREPARING) | TO(STORING) |
                         TO(SETTLING) | TO(DONE),
    [REQUEST_LEASING] = TO(LIMITED) | TO(READY) | TO(STORING) | TO(SETTLING) | TO(DONE),
    [REQUEST_LIMITED] = TO(READY) | TO(SETTLING) | TO(STORING) | TO(DONE),
    [REQUEST_READY] = TO(CLAIMING) | TO(RUNNING) | TO(SETTLING) | TO(STORING) | TO(DONE),
    [REQUEST_CLAIMING] = TO(READY) | TO(DONE),
    [REQUEST_RUNNING] =
        TO(READY) | TO(PREPARING) | TO(RECORDING) | TO(STORING) | TO(SETTLING) | TO(DONE),
    [REQUEST_PREPARING] = TO(RECORDING) | TO(STORING) | TO(SETTLING) | TO(DONE),
    [REQUEST_RECORDING] = TO(STORING) | TO(SETTLING) | TO(DONE),
    [REQUEST_STORING] = TO(SETTLING) | TO(DONE),
    [REQUEST_SETTLING] = TO(DONE),
    [REQUEST_DONE] = 0,
};

struct request *request_new(struct worker *w)
{
    struct request *r = mem_zalloc(sizeof *r);
    r->worker = w;
    r->def = -1;
    r->older = w->newest;
    r->place = &w->newest;
    if (r->older)
        r->older->place = &r->older;
    w->newest = r;
    return r;
}

void request_free(struct request *r)
{
    *r->place = r->older;
    if (r->older)
        r->older->place = r->place;
    message_done(&r->message);
    free(r->result);
    free(r->traceback);
    free(r->reason);
    unique_free(r);
    free(r->repr);
    cJSON_Delete(r->sent_before);
    cJSON_Delete(r->sends);
    cJSON_Delete(r->prepares);
    cJSON_Delete(r->children);
    cJSON_Delete(r->parts);
    cJSON_Delete(r->chords);
    cJSON_Delete(r->counts);
    free(r->polls);
    cJSON_Delete(r->revokes);
    free(r);
}

void request_move(struct request *r, enum request_state to)
{
    assert(moves[r->state] & (1u << to));
    if (log_threshold <= LOG_DEBUG)
        log_task(LOG_DEBUG, request_name(r), request_id(r), "%s -> %s", names[r->state], names[to]);
    r->state = to;
}

void request_list_insert(struct request_list *list, struct request *r, struct request *next)
{
    r->list = list;
    r->prev = next ? next->prev : list->last;
    r->next = next;
    *(r->prev ? &r->prev->next : &list->first) = r;
    *(r->next ? &r->next->prev : &list->last) = r;
    list->n++;
}

void request_list_remove(struct request *r)
{
    struct request_list *list = r->list;
    if (!list)
        return;
    *(r->prev ? &r->prev->next : &list->first) = r->next;
    *(r->next ? &r->next->prev : &list->last) = r->prev;
    r->next = r->prev = NULL;
    r->list = NULL;
    list->n--;
}

void request_raise(struct request *r, char *exception)
{
    free(r->result);
    r->result = exception;
}

int64_t request_deliveries(const struct request *r)
{
    int64_t count = 0;
    if (r->message.redelivered && r->message.headers.at) {
        cJSON *headers = json_parse(r->message.headers.at, r->message.headers.size, NULL);
        json_as_int(json_get(headers, deliveries_header), &count);
        cJSON_Delete(headers);
    }
    return count < 0 ? 0 : count < INT32_MAX ? count : INT32_MAX; /* it will be counted up */
}

char *request_redelivery(const struct request *r, bool started)
{
    struct slice text = r->message.text;
    char *marked = message_encode_redelivered(text.at, text.size);
    if (!started || !marked)
        return marked;
    cJSON *envelope = json_parse(marked, strlen(marked), NULL);
    cJSON *headers = cJSON_GetObjectItemCaseSensitive(envelope, "headers");
    json_set(headers, deliveries_header, json_int(request_deliveries(r) + 1));
    free(marked);
    marked = json_text(envelope);
    cJSON_Delete(envelope);
    return marked;
}

char *request_told(const struct request *r)
{
    cJSON *envelope = json_parse(r->message.text.at, r->message.text.size, NULL);
    cJSON *headers = cJSON_GetObjectItemCaseSensitive(envelope, "headers");
    char *text = NULL;
    if (cJSON_IsObject(headers)) {
        json_set(headers, told_header, json_int(r->message.retries));
        text = json_text(envelope);
    }
    cJSON_Delete(envelope);
    return text;
}

char *request_undated(const char *text, size_t size)
{
    cJSON *envelope = json_parse(text, size, NULL);
    cJSON *headers = cJSON_GetObjectItemCaseSensitive(envelope, "headers");
    char *undated = NULL;
    if (cJSON_IsObject(headers)) {
        json_set(headers, "eta", cJSON_CreateNull());
        undated = json_text(envelope);
    }
    cJSON_Delete(envelope);
    return undated;
}

bool request_was_told(const struct request *r)
{
    struct slice headers = r->message.headers;
    if (!headers.at || !memmem(headers.at, headers.size, told_header, sizeof told_header - 1))
        return false;
    int64_t retries = -1;
    cJSON *object = json_parse(headers.at, headers.size, NULL);
    json_as_int(json_get(object, told_header), &retries);
    cJSON_Delete(object);
    return retries == r->message.retries && !r->message.redelivered;
}

const char *request_name(const struct request *r)
{
    return r->message.shadow && *r->message.shadow ? r->message.shadow
           : r->message.task                       ? r->message.task
                                                   : "?";
}

const char *request_id(const struct request *r)
{
    return r->message.id ? r->message.id : "?";
}
