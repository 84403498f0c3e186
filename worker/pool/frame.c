/* SPDX-License-Identifier: Apache-2.0 */

/* Frames between main and a pool child. The four kinds differ only in their struct and in where its
 * slices lie, so one table of offsets serves all putting and getting. A frame is checked in full
 * before any part of it is believed: a child runs foreign code and may write anything. */

#include "worker/pool/frame.h"

#include <string.h>

enum { SLICES_MAX = 9 };

struct layout {
    size_t size;
    int slices;
    size_t offset[SLICES_MAX];
};

#define TASK_AT(field) offsetof(struct task_frame, field)
#define STATE_AT(field) offsetof(struct state_frame, field)
#define OUTCOME_AT(field) offsetof(struct outcome_frame, field)

static const struct layout layouts[] = {
    [FRAME_TASK] = {sizeof(struct task_frame),
                    9,
                    {TASK_AT(id), TASK_AT(name), TASK_AT(queue), TASK_AT(headers),
                     TASK_AT(properties), TASK_AT(body), TASK_AT(root_id), TASK_AT(parent_id),
                     TASK_AT(group_id)}},
    [FRAME_STARTED] = {sizeof(struct started_frame), 0, {0}},
    [FRAME_STATE] = {sizeof(struct state_frame), 2, {STATE_AT(state), STATE_AT(meta)}},
    [FRAME_OUTCOME] = {sizeof(struct outcome_frame),
                       4,
                       {OUTCOME_AT(result), OUTCOME_AT(traceback), OUTCOME_AT(repr),
                        OUTCOME_AT(sends)}},
};

static void frame_put(struct buf *out, enum frame_kind kind, const void *fixed)
{
    const struct layout *l = &layouts[kind];
    struct slice slices[SLICES_MAX];
    size_t total = sizeof(struct frame_head) + l->size;

    for (int i = 0; i < l->slices; i++) {
        memcpy(&slices[i], (const char *)fixed + l->offset[i], sizeof(slices[i]));
        if (!slices[i].at)
            slices[i].size = 0;
        if (slices[i].size > FRAME_MAX - total) {
            out->failed = true;
            return;
        }
        total += slices[i].size;
    }
    char *at = buf_reserve(out, total);
    if (!at)
        return;

    struct frame_head head = {(uint32_t)(total - sizeof(head)), kind};
    memcpy(at, &head, sizeof(head));
    memcpy(at + sizeof(head), fixed, l->size);
    for (int i = 0; i < l->slices; i++)
        memcpy(at + sizeof(head) + l->offset[i], &slices[i], sizeof(slices[i]));
    at += sizeof(head) + l->size;
    for (int i = 0; i < l->slices; i++) {
        if (slices[i].size)
            memcpy(at, slices[i].at, slices[i].size);
        at += slices[i].size;
    }
    *at = '\0';
    out->size += total;
}

void frame_put_task(struct buf *out, const struct task_frame *f)
{
    frame_put(out, FRAME_TASK, f);
}

void frame_put_started(struct buf *out, const struct started_frame *f)
{
    frame_put(out, FRAME_STARTED, f);
}

void frame_put_state(struct buf *out, const struct state_frame *f)
{
    frame_put(out, FRAME_STATE, f);
}

void frame_put_outcome(struct buf *out, const struct outcome_frame *f)
{
    frame_put(out, FRAME_OUTCOME, f);
}

int64_t frame_complete(const char *data, size_t size)
{
    struct frame_head head;
    if (size < sizeof(head))
        return 0;
    memcpy(&head, data, sizeof(head));
    if (head.kind < FRAME_TASK || head.kind > FRAME_OUTCOME ||
        head.size < layouts[head.kind].size || head.size > FRAME_MAX - sizeof(head))
        return -1;
    size_t total = sizeof(head) + head.size;
    return size < total ? 0 : (int64_t)total;
}

enum frame_kind frame_kind_of(const char *data)
{
    struct frame_head head;
    memcpy(&head, data, sizeof(head));
    return head.kind;
}

static int frame_get(const char *data, size_t size, enum frame_kind kind, void *ret)
{
    const struct layout *l = &layouts[kind];
    int64_t total = frame_complete(data, size);
    if (total <= 0 || frame_kind_of(data) != kind)
        return ERROR_INVALID;

    const char *at = data + sizeof(struct frame_head) + l->size;
    size_t left = (size_t)total - sizeof(struct frame_head) - l->size;
    memcpy(ret, data + sizeof(struct frame_head), l->size);
    for (int i = 0; i < l->slices; i++) {
        struct slice s;
        memcpy(&s, (char *)ret + l->offset[i], sizeof(s));
        if (s.size > left || (s.size && !s.at))
            return ERROR_INVALID;
        s.at = s.at ? at : NULL;
        memcpy((char *)ret + l->offset[i], &s, sizeof(s));
        at += s.size;
        left -= s.size;
    }
    return left ? ERROR_INVALID : 0;
}

int frame_get_task(const char *data, size_t size, struct task_frame *ret)
{
    return frame_get(data, size, FRAME_TASK, ret);
}

int frame_get_started(const char *data, size_t size, struct started_frame *ret)
{
    return frame_get(data, size, FRAME_STARTED, ret);
}

int frame_get_state(const char *data, size_t size, struct state_frame *ret)
{
    return frame_get(data, size, FRAME_STATE, ret);
}

int frame_get_outcome(const char *data, size_t size, struct outcome_frame *ret)
{
    return frame_get(data, size, FRAME_OUTCOME, ret);
}
