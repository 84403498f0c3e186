/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/task/task_private.h"

#include "proto/base/clock.h"
#include "proto/message.h"
#include "proto/uuid.h"

#include <stdlib.h>
#include <string.h>

/* Tasks that a task sends. They are encoded here, in the child, and leave with the outcome, so that
 * main publishes them in the step that acks: a task that fails or is redelivered sends nothing
 * twice. */

static const char *queue_of(const struct cw_send *send)
{
    if (send->queue)
        return send->queue;
    int index = registry_find(send->task);
    const char *queue = index >= 0 ? registry[index].table->queue : NULL;
    return queue ? queue : task_process.default_queue ? task_process.default_queue : "celery";
}

static void remember(cw_task *t, const struct cw_send *send, const char *queue, int64_t due,
                     const char *id, const char *text)
{
    cJSON *element = cJSON_CreateObject();
    json_set(element, "queue", cJSON_CreateString(queue));
    json_set(element, "priority", json_int(send->priority));
    json_set(element, "due", due == TIME_NONE ? cJSON_CreateNull() : json_int(due));
    json_set(element, "id", cJSON_CreateString(id));
    json_set(element, "text", cJSON_CreateString(text));
    if (!t->sends)
        t->sends = cJSON_CreateArray();
    cJSON_AddItemToArray(t->sends, element);
}

static int encode(cw_task *t, const struct cw_send *send, const char *id)
{
    const struct cw_info *info = cw_info(t);
    int64_t now = clock_us(CLOCK_REALTIME);
    int64_t due = send->countdown > 0 ? now + (int64_t)(send->countdown * 1e6) : TIME_NONE;
    if (send->eta && time_parse(send->eta, strlen(send->eta), &due) < 0)
        return helper_failed(t, false, "ValueError", "task %s: eta %s is no ISO 8601", send->task,
                             send->eta);
    const char *queue = queue_of(send);
    struct message_spec spec = {
        .task = send->task,
        .id = id,
        .args = send->args,
        .kwargs = send->kwargs,
        .queue = queue,
        .root_id = info->root_id ? info->root_id : info->id,
        .parent_id = info->id,
        .origin = task_process.hostname,
        .group_index = -1,
        .eta = due,
        .expires = send->expires > 0 ? now + (int64_t)(send->expires * 1e6) : TIME_NONE,
        .now = now,
        .priority = send->priority,
        .ignore_result = send->ignore_result,
        .headers = send->headers,
    };
    struct error err = {0};
    char *text = message_encode(&spec, &err);
    if (!text)
        return helper_failed(t, false, "EncodeError", "task %s: %s", send->task, err.text);
    remember(t, send, queue, due, id, text);
    free(text);
    return 0;
}

static int send_checked(cw_task *t, const struct cw_send *send, char id[CW_ID_SIZE])
{
    if (!send->task || !*send->task)
        return helper_failed(t, false, "ValueError", "cw_send() without the name of a task");
    if ((send->args && !cJSON_IsArray(send->args)) ||
        (send->kwargs && !cJSON_IsObject(send->kwargs)))
        return helper_failed(t, false, "TypeError",
                             "task %s: args must be a list and kwargs a dict", send->task);
    if (!send->id)
        uuid_make(id);
    return encode(t, send, send->id ? send->id : id);
}

int cw_send(cw_task *t, struct cw_send send, char ret_id[CW_ID_SIZE])
{
    char id[CW_ID_SIZE] = "";
    int code = send_checked(t, &send, id);
    if (ret_id) {
        strncpy(ret_id, send.id ? send.id : id, CW_ID_SIZE - 1);
        ret_id[CW_ID_SIZE - 1] = '\0';
    }
    cJSON_Delete(send.args);
    cJSON_Delete(send.kwargs);
    cJSON_Delete(send.headers);
    return code;
}
