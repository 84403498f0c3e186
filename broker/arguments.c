/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/arguments.h"

#include "proto/base/mem.h"

#include <stdlib.h>
#include <string.h>

void arguments_add(struct argument_list *list, const void *data, size_t size)
{
    if (list->n == list->capacity) {
        list->capacity = list->capacity ? list->capacity * 2 : 16;
        list->ends = mem_realloc(list->ends, (size_t)list->capacity * sizeof *list->ends);
    }
    buf_add(&list->bytes, data, size);
    list->ends[list->n++] = list->bytes.size;
}

void arguments_text(struct argument_list *list, const char *text)
{
    arguments_add(list, text, strlen(text));
}

const struct slice *arguments_seal(struct argument_list *list)
{
    if (list->slices)
        return list->slices;
    list->slices = mem_alloc((size_t)list->n * sizeof *list->slices);
    size_t from = 0;
    for (int i = 0; i < list->n; i++) {
        const char *at = list->bytes.data ? list->bytes.data + from : "";
        list->slices[i] = (struct slice){at, list->ends[i] - from};
        from = list->ends[i];
    }
    return list->slices;
}

void arguments_done(struct argument_list *list)
{
    buf_done(&list->bytes);
    free(list->ends);
    free(list->slices);
}
