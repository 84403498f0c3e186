/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/cancel.h"

#include "tasks/lib/mongo.h"

/* A store that does not answer now is met again at the end of the scan: it ends no tool. */

static const double look_every = 2;

bool cancel_is_asked(cw_task *t, const char *collection, const char *id, double seconds,
                     double *looked_at)
{
    if (seconds - *looked_at < look_every)
        return false;
    *looked_at = seconds;
    bson_t filter = BSON_INITIALIZER;
    doc_match_id(&filter, "_id", id);
    BSON_APPEND_UTF8(&filter, "status", "CANCELLED");
    int64_t n = mongo_count(t, collection, &filter);
    bson_destroy(&filter);
    return n > 0;
}
