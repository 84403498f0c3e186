/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/control/call.h"

/* Every command of remote control: Celery's, with the arguments of its functions in their order,
 * then our own. Help texts are for `cworker inspect` and `cworker control`. */

#define INSPECT(name, alias, arguments, help)                                                      \
    {#name, alias, CONTROL_INSPECT, arguments, call_##name, help}
#define CONTROL(name, arguments, help)                                                             \
    {#name, NULL, CONTROL_CONTROL, arguments, call_##name, help}

const struct control_command control_commands[] = {
    INSPECT(active, "dump_active", "safe *", "List of tasks currently being executed."),
    INSPECT(active_queues, NULL, "", "List the task queues a worker is currently consuming from."),
    INSPECT(clock, NULL, "*", "Get current logical clock value."),
    INSPECT(conf, "dump_conf", "with_defaults *", "List configuration."),
    INSPECT(hello, NULL, "from_node! revoked *", "Request mingle sync-data."),
    INSPECT(memdump, NULL, "samples *", "Dump statistics of previous memsample requests."),
    INSPECT(memsample, NULL, "*", "Sample current RSS memory usage."),
    INSPECT(objgraph, NULL, "num max_depth type", "Python only: answers with an error."),
    INSPECT(ping, NULL, "*", "Ping worker(s)."),
    INSPECT(query_task, NULL, "ids! *", "Query for task information by id."),
    INSPECT(registered, "dump_tasks", "taskinfoitems builtins *", "List of registered tasks."),
    INSPECT(report, NULL, "", "Information about the installation, for bug reports."),
    INSPECT(reserved, "dump_reserved", "*",
            "List of currently reserved tasks, not including scheduled/active."),
    INSPECT(revoked, "dump_revoked", "*", "List of revoked task-ids."),
    INSPECT(scheduled, "dump_schedule", "*", "List of currently scheduled ETA/countdown tasks."),
    INSPECT(stats, NULL, "*", "Request worker statistics/information."),

    CONTROL(add_consumer, "queue! exchange exchange_type routing_key *",
            "Tell worker(s) to consume from task queue by name."),
    CONTROL(autoscale, "max min", "Modify autoscale settings."),
    CONTROL(cancel_consumer, "queue! *",
            "Tell worker(s) to stop consuming from task queue by name."),
    CONTROL(disable_events, "", "Tell worker(s) to stop sending task-related events."),
    CONTROL(election, "id! topic! action *", "Hold election."),
    CONTROL(enable_events, "", "Tell worker(s) to send task-related events."),
    CONTROL(heartbeat, "", "Tell worker(s) to send event heartbeat immediately."),
    CONTROL(pause, "queue!", "Let no worker fetch from this queue, until it is resumed."),
    CONTROL(pool_grow, "n *", "Grow pool by n processes/threads."),
    CONTROL(pool_restart, "modules reload reloader *", "Restart execution pool."),
    CONTROL(pool_shrink, "n *", "Shrink pool by n processes/threads."),
    CONTROL(rate_limit, "task_name! rate_limit! *",
            "Tell worker(s) to modify the rate limit for a task by type."),
    CONTROL(resume, "queue!", "Let all workers fetch from this queue again."),
    CONTROL(revoke, "task_id! terminate signal *", "Revoke task by task id (or list of ids)."),
    CONTROL(revoke_by_stamped_headers, "headers! terminate signal *",
            "Revoke task by header (or list of headers)."),
    CONTROL(revoked_stamps_clear, "", "Forget all revoked stamps, in the whole fleet."),
    CONTROL(shutdown, "msg *", "Shutdown worker(s)."),
    CONTROL(terminate, "signal! task_id! *", "Terminate task by task id (or list of ids)."),
    CONTROL(time_limit, "task_name hard soft *",
            "Tell worker(s) to modify the time limit for task by type."),
};

const int control_n_commands = sizeof control_commands / sizeof *control_commands;
