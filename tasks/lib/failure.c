/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/failure.h"

/* A helper that was asked to stop is as passing a trouble as any for who only asks whether it is
 * transient; but a task that was revoked, or has used up its time, is not tried again, and its
 * document must not wait for an attempt that never comes. Only a shutdown gives it back. */

struct failure failure_read_at(cw_task *t, const char *file, int line, const char *function)
{
    const struct cw_info *info = cw_info(t);
    struct failure f = {0};
    const char *text = cw_problem_text(t, &f.transient);
    enum cw_stop stop = cw_stopping(t);
    if (stop == CW_SOFT_LIMIT || stop == CW_REVOKED) {
        f.transient = false;
        f.why = stop == CW_REVOKED
                    ? "TaskRevokedError: terminated"
                    : cw_printf(t, "SoftTimeLimitExceeded: not done after %.0f s", info->soft_limit);
        f.outcome = cw_stopped_at(t, file, line, function);
        return f;
    }
    f.why = cw_printf(t, "%s", text ? text : "it was stopped");
    f.again = f.transient && (info->max_retries < 0 || info->retries < info->max_retries);
    f.outcome = cw_fail_at(t, file, line, function);
    return f;
}
