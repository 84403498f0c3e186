/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/command/remote_table.h"

#include <stddef.h>

/* Sorted within a kind: so they are listed. */

#define I REMOTE_INSPECT
#define C REMOTE_CONTROL

const struct remote_command remote_commands[] = {
    {"active", I, {{0}}, NULL, "", "tasks that run now"},
    {"active_queues", I, {{0}}, NULL, "", "queues that are consumed"},
    {"clock", I, {{0}}, NULL, "", "logical clock"},
    {"conf", I, {{"with_defaults", REMOTE_FLAG}}, NULL, "[include_defaults=False]", "settings"},
    {"memdump", I, {{"samples", REMOTE_INT}}, NULL, "[n_samples=10]",
     "statistics of the memory samples taken"},
    {"memsample", I, {{0}}, NULL, "", "take a sample of the memory in use"},
    {"objgraph", I,
     {{"type", REMOTE_TEXT}, {"num", REMOTE_INT}, {"max_depth", REMOTE_INT}}, NULL,
     "[object_type=Request] [num=200 [max_depth=10]]", "graph of Python objects"},
    {"ping", I, {{0}}, NULL, "", "who is there"},
    {"query_task", I, {{0}}, "ids", "[id1 [id2 [... [idN]]]]", "what is known of tasks, by id"},
    {"registered", I, {{0}}, "taskinfoitems", "[attr1 [attr2 [... [attrN]]]]",
     "tasks that can be run"},
    {"report", I, {{0}}, NULL, "", "versions and settings, for a bug report"},
    {"reserved", I, {{0}}, NULL, "", "tasks taken from a queue and waiting to run"},
    {"revoked", I, {{0}}, NULL, "", "ids of revoked tasks"},
    {"scheduled", I, {{0}}, NULL, "", "tasks that wait for their time"},
    {"stats", I, {{0}}, NULL, "", "statistics"},

    {"add_consumer", C,
     {{"queue", REMOTE_TEXT},
      {"exchange", REMOTE_TEXT},
      {"exchange_type", REMOTE_TEXT},
      {"routing_key", REMOTE_TEXT}},
     NULL, "<queue> [exchange [type [routing_key]]]", "consume a queue, too"},
    {"autoscale", C, {{"max", REMOTE_INT}, {"min", REMOTE_INT}}, NULL, "[max [min]]",
     "other bounds of autoscale"},
    {"cancel_consumer", C, {{"queue", REMOTE_TEXT}}, NULL, "<queue>", "no longer consume a queue"},
    {"disable_events", C, {{0}}, NULL, "", "tell no longer of tasks"},
    {"election", C, {{0}}, NULL, "", "elect one of the workers"},
    {"enable_events", C, {{0}}, NULL, "", "tell of tasks in events"},
    {"heartbeat", C, {{0}}, NULL, "", "send a heartbeat now"},
    {"pause", C, {{"queue", REMOTE_TEXT}}, NULL, "<queue>",
     "let no cworker fetch from a queue until it is resumed"},
    {"pool_grow", C, {{"n", REMOTE_INT}}, NULL, "[N=1]", "run so many tasks more at a time"},
    {"pool_restart", C, {{0}}, NULL, "", "replace the children of the pool"},
    {"pool_shrink", C, {{"n", REMOTE_INT}}, NULL, "[N=1]", "run so many fewer"},
    {"rate_limit", C, {{"task_name", REMOTE_TEXT}, {"rate_limit", REMOTE_TEXT}}, NULL,
     "<task_name> <rate_limit (e.g., 5/s | 5/m | 5/h)>", "starts of a task by its name"},
    {"resume", C, {{"queue", REMOTE_TEXT}}, NULL, "<queue>", "fetch from a queue again"},
    {"revoke", C, {{0}}, "task_id", "[id1 [id2 [... [idN]]]]", "do not run these tasks"},
    {"revoke_by_stamped_headers", C, {{0}}, "headers",
     "[key1=value1 [key2=value2 [... [keyN=valueN]]]]", "do not run tasks with these stamps"},
    {"revoked_stamps_clear", C, {{0}}, NULL, "", "forget all revoked stamps"},
    {"shutdown", C, {{0}}, NULL, "", "warm shutdown"},
    {"terminate", C, {{"signal", REMOTE_TEXT}}, "task_id", "<signal> [id1 [id2 [... [idN]]]]",
     "end these tasks, running or not"},
    {"time_limit", C,
     {{"task_name", REMOTE_TEXT}, {"soft", REMOTE_REAL}, {"hard", REMOTE_REAL}}, NULL,
     "<task_name> <soft_secs> [hard_secs]", "time limits of a task by its name"},
};

const int n_remote_commands = sizeof remote_commands / sizeof *remote_commands;
