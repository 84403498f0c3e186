/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BROKER_ARGUMENTS_H
#define BROKER_ARGUMENTS_H

/* Keys, then arguments of a script, collected piece by piece: {.bytes = BUF_INIT(most)} begins
 * one. */

#include "proto/base/buf.h"
#include "proto/base/slice.h"

struct argument_list {
    struct buf bytes;
    size_t *ends;
    int n, capacity;
    int n_keys;           /* the first of them; set by whoever collects */
    struct slice *slices; /* made by arguments_seal */
};

void arguments_add(struct argument_list *list, const void *data, size_t size); /* copies */
void arguments_text(struct argument_list *list, const char *text);
const struct slice *arguments_seal(struct argument_list *list); /* all n; nothing is added after it */
void arguments_done(struct argument_list *list);

#endif
