/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_SETTINGS_H
#define WORKER_SETTINGS_H

/* Every setting is one row, and all that knows settings (command line, --set, --config,
 * environment, --help, conf, the check of docs/settings.md) is made from these rows. Names are
 * Celery's. Precedence: command line, --set, environment, --config file, default.
 *
 *   X(field and name, type, default, unit, help)
 * types: TEXT (char *, NULL when unset), INT (int64_t), REAL (double, seconds), FLAG (bool),
 * LIST (char **, NULL-ended, comma-separated in text), JSON (cJSON *, only from a file or as JSON
 * text). */

#include "proto/json.h"

#define SETTINGS(X)                                                                                \
    X(broker_url, TEXT, "redis://127.0.0.1:6379/0", "", "URL of Redis")                            \
    X(result_backend, TEXT, NULL, "", "URL of the result store: mongodb:// redis:// file://")      \
    X(result_expires, REAL, "86400", "s", "results vanish after this; 0: never")                   \
    X(result_extended, FLAG, "false", "", "store name, args, kwargs, worker, queue, retries too")  \
    X(result_chord_join_timeout, REAL, "3", "s", "a chord of groups waits for their members")      \
    X(result_chord_retry_interval, REAL, "1", "s", "celery.chord_unlock looks again after this")   \
    X(result_spool_dir, TEXT, NULL, "", "folder of the file for results that wait; /var/tmp")      \
    X(result_spool_size, INT, "1073741824", "bytes", "at most this much in it; then no new tasks") \
    X(result_serializer, TEXT, "json", "", "only json")                                            \
    X(mongodb_backend_settings, JSON, NULL, "", "database, taskmeta_collection, …")                \
    X(result_backend_transport_options, JSON, NULL, "", "global_keyprefix, …")                     \
    X(broker_transport_options, JSON, NULL, "", "the members below, by their own names")           \
    X(visibility_timeout, REAL, "3600", "s", "after which a Python worker's unacked tasks return") \
    X(priority_steps, LIST, "0,3,6,9", "", "priority steps of the queues")                         \
    X(global_keyprefix, TEXT, NULL, "", "put before every key in Redis")                           \
    X(queue_order_strategy, TEXT, "round_robin", "", "round_robin, priority or sorted")            \
    X(master_name, TEXT, NULL, "", "which master a sentinel:// broker means")                      \
    X(sentinel_kwargs, JSON, NULL, "", "username, password, ssl … of the sentinels themselves")    \
    X(broker_wait_replicas, INT, "0", "", "replicas that should have an ack before it counts")     \
    X(unacked_key, TEXT, "unacked", "", "Kombu's hash of unacked messages")                        \
    X(unacked_index_key, TEXT, "unacked_index", "", "Kombu's index of it")                         \
    X(unacked_mutex_key, TEXT, "unacked_mutex", "", "Kombu's lock on its restore")                 \
    X(fanout_prefix, TEXT, "/{db}.", "", "before the names of PUB/SUB topics; false: nothing")     \
    X(fanout_patterns, FLAG, "true", "", "routing keys are part of those names")                   \
    X(control_exchange, TEXT, "celery", "", "remote control listens to {this}.pidbox")             \
    X(unacked_mutex_expire, REAL, "300", "s", "after which that lock is nobody's")                 \
    X(unacked_restore_limit, INT, "0", "", "messages restored at one look; 0: no limit")           \
    X(broker_connection_retry, FLAG, "true", "", "connect again when the connection is lost")      \
    X(broker_connection_retry_on_startup, FLAG, "true", "", "… and when it fails at the start")    \
    X(broker_connection_max_retries, INT, "0", "", "… so often; 0: for ever")                      \
    X(worker_lease, REAL, "30", "s", "a worker silent this long is dead: its tasks go back")       \
    X(task_queues, LIST, NULL, "", "queues to consume; -Q")                                        \
    X(task_default_queue, TEXT, "celery", "", "queue when none is named")                          \
    X(task_acks_late, FLAG, "true", "", "ack after the result is durable")                         \
    X(task_acks_on_failure_or_timeout, FLAG, "true", "", "ack failed tasks too")                   \
    X(task_reject_on_worker_lost, FLAG, "false", "", "a task whose child died goes back")          \
    X(task_max_deliveries, INT, "5", "", "started this often without an end: dead-letter")         \
    X(task_ignore_result, FLAG, "false", "", "store no results")                                   \
    X(task_store_errors_even_if_ignored, FLAG, "false", "", "store failures all the same")         \
    X(task_track_started, FLAG, "false", "", "store state STARTED")                                \
    X(task_inherit_parent_priority, FLAG, "false", "", "what follows a task has its priority")     \
    X(task_time_limit, REAL, "0", "s", "hard limit; 0: none")                                      \
    X(task_soft_time_limit, REAL, "0", "s", "soft limit; 0: none")                                 \
    X(task_default_rate_limit, TEXT, NULL, "", "10/s, 10/m, 10/h")                                 \
    X(worker_disable_rate_limits, FLAG, "false", "", "no rate limit counts")                       \
    X(worker_concurrency, INT, "0", "", "tasks at a time; 0: number of CPUs")                      \
    X(worker_pool, TEXT, "prefork", "", "prefork, threads or solo")                                \
    X(worker_prefetch_multiplier, INT, "4", "", "messages held per task at a time")                \
    X(worker_max_tasks_per_child, INT, "0", "", "a child is replaced after so many; 0: never")     \
    X(worker_max_memory_per_child, INT, "0", "KiB", "… after its resident size passes this")       \
    X(worker_soft_shutdown_timeout, REAL, "0", "s", "cold shutdown waits this long for tasks")     \
    X(worker_enable_soft_shutdown_on_idle, FLAG, "false", "", "… also when no task runs")          \
    X(worker_send_task_events, FLAG, "false", "", "-E")                                            \
    X(task_send_sent_event, FLAG, "false", "", "tell of each task that is published, too")         \
    X(event_exchange, TEXT, "celeryev", "", "exchange of the events")                              \
    X(worker_enable_remote_control, FLAG, "true", "", "listen to celery inspect and control")      \
    X(worker_pool_restarts, FLAG, "false", "", "allow the pool_restart command")                   \
    X(worker_state_db, TEXT, NULL, "", "file that keeps revoked ids")                              \
    X(worker_log_color, TEXT, "auto", "", "auto, true or false")                                   \
    X(worker_log_json, FLAG, "false", "", "log as JSON lines")                                     \
    X(message_max_size, INT, "268435456", "bytes", "larger bodies go to the dead-letter list")     \
    X(app_database_url, TEXT, NULL, "", "MongoDB of the built-in tasks")                           \
    X(timezone, TEXT, "UTC", "", "told by inspect conf; times in messages are UTC")                \
    X(tasks, JSON, NULL, "", "programs as tasks: [{name, queue, command, timeout}]")               \
    X(task_fleet_limits, JSON, NULL, "", "{task: {rate, concurrency, key}} of all workers")        \
    X(task_aliases, JSON, NULL, "", "{other name: task name}")

enum setting_type {
    SETTING_TEXT,
    SETTING_INT,
    SETTING_REAL,
    SETTING_FLAG,
    SETTING_LIST,
    SETTING_JSON,
};

typedef char *setting_TEXT, **setting_LIST;
typedef int64_t setting_INT;
typedef double setting_REAL;
typedef bool setting_FLAG;
typedef cJSON *setting_JSON;

#define SETTING_ONE(name, type, fallback, unit, help) +1
enum { N_SETTINGS = SETTINGS(SETTING_ONE) };
#undef SETTING_ONE

struct settings {
#define SETTING_FIELD(name, type, fallback, unit, help) setting_##type name;
    SETTINGS(SETTING_FIELD)
#undef SETTING_FIELD
    bool given[N_SETTINGS]; /* see settings_given */
    char *ignored; /* names that were given and have no effect here: "a, b"; NULL: none */
};

void settings_init(struct settings *s); /* the defaults */
void settings_done(struct settings *s);

/* Each names the setting and says what is wrong and what would be right (nearest known name).
 * Unknown names are INVALID; names that Celery has and a C worker ignores are accepted and noted
 * in s->ignored. */
int settings_set(struct settings *s, const char *name, const char *value, struct error *err);
int settings_set_json(struct settings *s, const char *name, const cJSON *value, struct error *err);
int settings_load_file(struct settings *s, const char *path, struct error *err);
int settings_load_environment(struct settings *s, struct error *err);
int settings_check(const struct settings *s, struct error *err); /* contradictions */
/* Was this single value given, be it the default, or is it there because nobody gave one? */
bool settings_given(const struct settings *s, const char *name);
/* broker_url with what the transport options say of sentinels. redis_url_done is due after
 * success. */
struct redis_url;
int settings_broker(const struct settings *s, struct redis_url *ret_url, struct error *err);
/* "10/m", "0.5/s", "3", … as starts per second; NULL, "" and "0" are 0: no limit. False: it is no
 * rate. */
bool settings_rate(const char *text, double *ret_per_second);
/* A decimal number as Python's float() reads it: blanks around it, a plus, 1_000. False: it is none,
 * negative or not finite. */
bool settings_number(const char *text, size_t size, double *ret_number);

/* worker_concurrency; when that is 0 the CPUs this process may use: its affinity and the CPU quota
 * of its cgroup (v2), rounded up. At least 1. */
int settings_concurrency(const struct settings *s);

/* All as one object (secrets masked), for `report` and `inspect conf`. Caller frees. */
cJSON *settings_dump(const struct settings *s, bool with_defaults);
void settings_print_help(void *file /* FILE * */);

#endif
