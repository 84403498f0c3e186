/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/config/options_table.h"

#include <string.h>

/* Data only. Order within a command is the order of its help. */

#define S OPTION_SETTING
#define W IN_worker
#define REMOTE (IN_status | IN_inspect | IN_control)

const struct option_row option_rows[] = {
    /* everywhere */
    {"broker", 'b', "URL", IN_ALL, S, "broker_url", "Redis that holds the queues"},
    {"result-backend", 0, "URL", IN_ALL, S, "result_backend",
     "where results are stored: mongodb://, redis://, sentinel:// or file://; unset: nowhere"},
    {"config", 0, "FILE", IN_ALL, OPTION_CONFIG, NULL, "JSON file with settings by their names"},
    {"set", 0, "NAME=VALUE", IN_ALL, OPTION_SET, NULL,
     "any setting, as in --set task_acks_late=false; may be repeated"},
    {"app", 'A', "FILE.so", IN_ALL, OPTION_APP, NULL,
     "shared object with C tasks to load; may be repeated, or a list with commas"},
    {"loglevel", 'l', "LEVEL", IN_ALL, OPTION_LOGLEVEL, NULL,
     "debug, info, warning (default), error, critical or fatal"},
    {"no-color", 'C', NULL, IN_ALL, OPTION_NO_COLOR, NULL, "no colours in the log"},
    {"quiet", 'q', NULL, IN_ALL, OPTION_QUIET, NULL, "no banner, no notes"},
    {"workdir", 0, "FOLDER", IN_ALL, OPTION_WORKDIR, NULL, "change into this folder first"},
    {"version", 0, NULL, IN_ALL, OPTION_VERSION, NULL, "print the version and exit"},
    {"help", 'h', NULL, IN_ALL, OPTION_HELP, NULL, "print help and exit"},
    {"loader", 0, "NAME", IN_ALL, OPTION_NOTHING, NULL, "Python's loader"},
    {"skip-checks", 0, NULL, IN_ALL, OPTION_NOTHING, NULL, "Django's checks"},

    /* worker */
    {"concurrency", 'c', "N", W, S, "worker_concurrency",
     "tasks at a time; 0 (default): as many as there are CPUs for this process"},
    {"autoscale", 0, "MAX,MIN", W, OPTION_AUTOSCALE, NULL,
     "between MIN and MAX tasks at a time: more while tasks wait, fewer after 30 s without need"},
    {"pool", 'P', "POOL", W, S, "worker_pool",
     "prefork (default; processes is another name), threads or solo"},
    {"queues", 'Q', "LIST", W | IN_purge, OPTION_QUEUES, NULL,
     "queues, with commas between; may be repeated. Default: task_queues, else "
     "task_default_queue (celery)"},
    {"queues", 'Q', "LIST", IN_dead | IN_queues, OPTION_QUEUES, NULL,
     "these queues, with commas between; may be repeated. Default: task_queues, else all"},
    {"exclude-queues", 'X', "LIST", W | IN_purge | IN_dead | IN_queues, OPTION_EXCLUDE, NULL,
     "queues to leave out"},
    {"hostname", 'n', "NAME", W, OPTION_HOSTNAME, NULL,
     "node name; default celery@%h. %h is the host's full name, %n the part before its first dot, "
     "%d the part after it. A name without @ is the host's: celery@NAME, as in Celery"},
    {"task-events", 'E', NULL, W, S, "worker_send_task_events", "send task events (also --events)"},
    {"events", 0, NULL, W, S, "worker_send_task_events", NULL},
    {"heartbeat-interval", 0, "SECONDS", W, OPTION_HEARTBEAT, NULL,
     "publish worker-heartbeat this often; default 2"},
    {"without-heartbeat", 0, NULL, W, OPTION_NO_HEARTBEAT, NULL,
     "do not publish worker-online, worker-heartbeat and worker-offline"},
    {"time-limit", 0, "SECONDS", W, S, "task_time_limit", "a task that runs longer is killed"},
    {"soft-time-limit", 0, "SECONDS", W, S, "task_soft_time_limit",
     "a task that runs longer is asked to end"},
    {"max-tasks-per-child", 0, "N", W, S, "worker_max_tasks_per_child",
     "replace a child after N tasks"},
    {"max-memory-per-child", 0, "KIB", W, S, "worker_max_memory_per_child",
     "replace a child that has grown beyond this resident size"},
    {"prefetch-multiplier", 0, "N", W, OPTION_PREFETCH, NULL,
     "messages held for each task that can run; 0: as the setting says (4)"},
    {"disable-prefetch", 0, NULL, W, OPTION_NO_PREFETCH, NULL,
     "the same as --prefetch-multiplier 1"},
    {"purge", 0, NULL, W, OPTION_PURGE, NULL,
     "empty the queues before starting, without asking (also --discard)"},
    {"discard", 0, NULL, W, OPTION_PURGE, NULL, NULL},
    {"no-alias", 0, NULL, W, OPTION_NO_ALIAS, NULL,
     "find built-in tasks by their full name only, not by its last part"},
    {"logfile", 'f', "FILE", W, OPTION_LOGFILE, NULL,
     "log into this file, which may be rotated; %n, %h, %d, %p as in the node name, %p being all "
     "of it"},
    {"pidfile", 0, "FILE", W, OPTION_PIDFILE, NULL,
     "write the process id here; exit 73 if that process already runs"},
    {"statedb", 'S', "FILE", W, S, "worker_state_db", "keep revoked ids here over restarts"},
    {"detach", 'D', NULL, W, OPTION_DETACH, NULL,
     "run in the background; without --logfile what it says is lost"},
    {"without-mingle", 0, NULL, W, OPTION_NO_MINGLE, NULL,
     "do not ask other workers for revoked tasks at the start"},
    {"without-gossip", 0, NULL, W, OPTION_NO_GOSSIP, NULL, "take no part in elections"},
    {"umask", 0, "OCTAL", W, OPTION_UMASK, NULL, "permissions that new files do not get"},

    {"include", 'I', "LIST", W, OPTION_NOTHING, NULL, "Python modules"},
    {"optimization", 'O', "PROFILE", W, OPTION_OPTIMIZATION, NULL,
     "default or fair: tasks are always handed out fairly"},
    {"executable", 0, "PATH", W, OPTION_NOTHING, NULL, "Python's interpreter"},
    {"uid", 0, "USER", W, OPTION_USER, NULL, "only the user that runs it already"},
    {"gid", 0, "GROUP", W, OPTION_GROUP, NULL, "only the group that runs it already"},

    {"beat", 'B', NULL, W, OPTION_REFUSED, NULL,
     "the worker has no scheduler in it: run `celery beat` beside it"},
    {"schedule", 's', "FILE", W, OPTION_REFUSED, NULL, "it belongs to --beat, which is not here"},
    {"schedule-filename", 0, "FILE", W, OPTION_REFUSED, NULL,
     "it belongs to --beat, which is not here"},
    {"scheduler", 0, "NAME", W, OPTION_REFUSED, NULL, "it belongs to --beat, which is not here"},

    /* call */
    {"args", 'a', "JSON", IN_call, OPTION_REST, NULL, "positional arguments, as in '[1, \"two\"]'"},
    {"kwargs", 'k', "JSON", IN_call, OPTION_REST, NULL, "named arguments, as in '{\"x\": 1}'"},
    {"queue", 0, "NAME", IN_call, OPTION_REST, NULL,
     "queue; default: that of the task, else task_default_queue"},
    {"countdown", 0, "SECONDS", IN_call, OPTION_REST, NULL, "run it so much later"},
    {"eta", 0, "TIME", IN_call, OPTION_REST, NULL, "run it at this time (ISO 8601)"},
    {"expires", 0, "TIME", IN_call, OPTION_REST, NULL,
     "do not start it after this: ISO 8601, or seconds from now"},
    {"priority", 0, "N", IN_call, OPTION_REST, NULL, "0 to 255; 0, the default, comes first"},
    {"id", 0, "ID", IN_call, OPTION_REST, NULL, "task id; default: a new one"},
    {"wait", 0, NULL, IN_call, OPTION_REST, NULL,
     "wait for the result and print it as `cworker result` does"},
    {"timeout", 0, "SECONDS", IN_call, OPTION_REST, NULL,
     "with --wait: give up after this; default: never"},

    /* result */
    {"traceback", 0, NULL, IN_result, OPTION_REST, NULL,
     "print the traceback instead of the value"},
    {"task", 't', "NAME", IN_result, OPTION_NOTHING, NULL, "name of the task"},

    /* several */
    {"timeout", 't', "SECONDS", REMOTE | IN_queues, OPTION_REST, NULL,
     "wait for a reply this long; default 1"},
    {"destination", 'd', "LIST", REMOTE, OPTION_REST, NULL,
     "only these nodes, with commas between"},
    {"json", 'j', NULL, REMOTE | IN_events | IN_queues | IN_dead | IN_recover, OPTION_REST, NULL,
     "print JSON, for programs"},
    {"list", 0, NULL, IN_inspect | IN_control, OPTION_REST, NULL, "list the commands and exit"},

    /* events */
    {"dump", 'd', NULL, IN_events, OPTION_REST, NULL,
     "a line for each event; so it is where there is no terminal"},
    {"frequency", 'F', "SECONDS", IN_events, OPTION_REST, NULL,
     "renew the screen this often; default 1"},

    /* purge */
    {"force", 'f', NULL, IN_purge | IN_dead, OPTION_REST, NULL, "do not ask"},

    /* dead, recover */
    {"all", 0, NULL, IN_dead, OPTION_REST, NULL, "every letter (of -Q) instead of some"},
    {"force", 0, NULL, IN_recover, OPTION_REST, NULL,
     "take the messages from workers that still live; they stop running them"},
};

const int n_option_rows = sizeof option_rows / sizeof *option_rows;
_Static_assert(sizeof option_rows / sizeof *option_rows <= OPTION_ROWS_MOST, "too many options");

const char *const command_names[N_COMMANDS] = {
    "worker",
#define COMMAND_NAME(name, help) #name,
    COMMANDS(COMMAND_NAME)
#undef COMMAND_NAME
};

int command_find(const char *name)
{
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(command_names[i], name) == 0)
            return i;
    return -1;
}
