/* SPDX-License-Identifier: Apache-2.0 */
#include "test/fuzz/fuzz.h"

#include "proto/envelope.h"
#include "proto/message.h"

#include "proto/base/mem.h"
#include "proto/repr.h"

/* What a tree prints must be readable again and print the same. */
static void check_tree(const char *text, size_t size)
{
    cJSON *tree = json_parse(text, size, NULL);
    if (!tree)
        return;
    char *once = json_text(tree);
    cJSON *again = json_parse(once, strlen(once), NULL);
    char *twice = json_text(again);
    if (!again || strcmp(once, twice) != 0)
        abort();
    struct buf repr = BUF_INIT(1 << 20);
    repr_print(tree, true, 100, &repr);
    buf_done(&repr);
    free(twice);
    cJSON_Delete(again);
    free(once);
    cJSON_Delete(tree);
}

static void check_message(const char *text, size_t size)
{
    struct message_limits limits = {.body_size = 1 << 20};
    struct error err = {0};
    struct message m;
    if (message_decode(mem_ndup(text, size), size, &limits, &m, &err) == 0) {
        if (!m.id || !m.task)
            abort();
        cJSON *body = json_parse(m.body.at, m.body.size, NULL);
        if (cJSON_GetArraySize(body) != 3)
            abort();
        cJSON_Delete(body);
        char *retry = message_encode_retry(&m, 0, 0);
        struct message next;
        size_t length = strlen(retry);
        if (message_decode(retry, length, &limits, &next, &err) != 0)
            abort();
        message_done(&next);
    } else if (!err.code || !err.text[0]) {
        abort();
    }
    message_done(&m);
}

static void check_envelope(const char *text, size_t size)
{
    struct error err = {0};
    cJSON *headers, *body;
    int code = envelope_decode((struct slice){text, size}, &headers, &body, &err);
    if ((code == 0) != (body != NULL) || (code && !err.text[0]))
        abort();
    cJSON_Delete(headers);
    cJSON_Delete(body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    int64_t time;
    check_message(text, size);
    check_envelope(text, size);
    check_tree(text, size);
    free(message_encode_redelivered(text, size));
    time_parse(text, size, &time);
    return 0;
}
