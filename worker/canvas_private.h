/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_CANVAS_PRIVATE_H
#define WORKER_CANVAS_PRIVATE_H

/* What canvas.c (signatures and their ids) lends to canvas_apply.c (signatures to messages). */

#include "worker/canvas.h"

/* What freezing gives a signature; NULL: nothing. All borrowed. */
struct membership {
    struct canvas_ids *ids;
    const char *id, *root_id, *group_id;
    const cJSON *chord; /* body that waits for it */
    bool share;         /* refer to it instead of copying it: it must outlive what is frozen */
    bool has_index;
    int64_t group_index;
};

cJSON *signature_freeze(cJSON *signature, const struct membership *m); /* its result tuple */
cJSON *freeze_members(cJSON *tasks, const struct membership *m); /* each its place in it */
void make_id(struct canvas_ids *ids, char out[37]);
cJSON *chain_steps(cJSON *chain); /* normalised; NULL: there are none */
/* The result tuple of the last step, the steps before it as its ancestors; NULL: it has none. */
cJSON *chain_prepare(cJSON *steps, const struct membership *m);
const char *header_group_id(const cJSON *chord); /* NULL: not frozen yet */

cJSON *signature_options(cJSON *signature); /* made when missing */
bool option_given(const cJSON *options, const char *name);
cJSON *option_list(cJSON *options, const char *name); /* made a list when it is none */
bool tuple_is_group(const cJSON *tuple);
cJSON *take_tasks(cJSON *signature);
cJSON *make_chain(cJSON *tasks);
cJSON *make_chord(cJSON *header, cJSON *body);

#endif
