/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/http.h"

static const double patience = 60;

int http_patient(cw_task *t, const struct cw_http *request, struct cw_reply *ret_reply)
{
    double waited = 0;
    for (;;) {
        int code = cw_http(t, request, ret_reply);
        long status = ret_reply->status;
        double wait = ret_reply->retry_after;
        bool asked = (status == 429 || status == 503) && wait > 0;
        if (!asked || waited + wait > patience || wait + 5 > cw_time_left(t))
            return code;
        waited += wait;
        cw_log(t, CW_INFO, "HTTP %ld: trying again in %.0f s, as asked", status, wait);
        if (cw_sleep(t, wait) < 0)
            return -1;
    }
}
