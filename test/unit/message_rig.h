/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TEST_UNIT_MESSAGE_RIG_H
#define TEST_UNIT_MESSAGE_RIG_H

/* What Celery's producers really sent (test/golden), read for the tests of messages. */

#include "proto/message.h"

#include "proto/base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static inline char *file_text(const char *path, size_t *ret_size)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        fail_msg("cannot open %s (run from the repository's root or set GOLDEN)", path);
    struct buf text = BUF_INIT(64 << 20);
    char *room;
    while ((room = buf_reserve(&text, 1 << 16))) {
        size_t got = fread(room, 1, 1 << 16, file);
        text.size += got;
        if (!got)
            break;
    }
    fclose(file);
    *ret_size = text.size;
    return buf_take(&text);
}

static inline const char *golden_root(void)
{
    const char *root = getenv("GOLDEN");
    return root ? root : "test/golden";
}

static inline cJSON *golden_read(const char *set, const char *name)
{
    struct error err = {0};
    char *path = mem_printf("%s/%s/%s", golden_root(), set, name);
    size_t size;
    char *text = file_text(path, &size);
    cJSON *tree = json_parse(text, size, &err);
    if (!tree)
        fail_msg("%s: %s", path, err.text);
    free(text);
    free(path);
    return tree;
}

static inline const char *golden_element(const cJSON *golden, int index)
{
    return json_get_string(cJSON_GetArrayItem(json_get(golden, "elements"), index), "raw");
}

static inline int decode(const char *text, struct message *m, struct error *err)
{
    *err = (struct error){0};
    return message_decode(mem_dup(text), strlen(text), NULL, m, err);
}

#endif
