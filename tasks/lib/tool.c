/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/tool.h"

#include "tasks/lib/check.h"

#include <signal.h>
#include <string.h>

/* What every scanner's run has in common when its report cannot be written. Some tools die of it,
 * others say so and end with a status of their own. */

static bool says(const struct cw_exit *e, const char *said, const char *words)
{
    return strstr(e->errors, words) || (said && strstr(said, words));
}

int tool_run(cw_task *t, struct cw_command command, const char *said, struct cw_exit *ret_exit)
{
    int64_t megabytes = setting_int(t, "MAX_REPORT_MB", 4096, 1, 1 << 20);
    if (megabytes < 0)
        return -1;
    command.max_file = (size_t)megabytes << 20;
    /* What it writes beside its report goes with the delivery. A relative path is the worker's. */
    if (*command.argv[0] == '/' || !strchr(command.argv[0], '/'))
        command.folder = cw_tmpdir(t);
    if (cw_exec(t, &command, ret_exit) < 0)
        return -1;
    if (ret_exit->signal == SIGXFSZ || ret_exit->status == 128 + SIGXFSZ || /* as shells say it */
        (ret_exit->status && says(ret_exit, said, "File too large")))
        return cw_problem(
            t, false, "ValueError",
            "%s wants to write a file larger than %lld MB: raise CWORKER_MAX_REPORT_MB",
            command.argv[0], (long long)megabytes);
    if (ret_exit->status && says(ret_exit, said, "No space left on device"))
        return cw_problem(t, true, "OSError", "%s cannot write its report: the disk is full",
                          command.argv[0]);
    return 0;
}
