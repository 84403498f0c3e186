/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/config/settings_names.h"

#include "proto/base/mem.h"
#include "worker/config/settings.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Celery knows some 150 settings that mean nothing to a C worker, and whole configurations are
 * copied over with them. They are accepted, so that such a file works unchanged; but a value that
 * asks for something we would silently not do (signed messages, another serializer) is refused,
 * with the way to get it. */

struct ignored {
    const char *name;
    const char *only;    /* the values that may be ignored, comma-separated; NULL: any */
    const char *instead; /* why another value is refused */
};

#define SECURITY "signed messages (serializer auth) are not checked here"
#define TLS "write rediss:// in the URL, with ssl_cert_reqs, ssl_ca_certs … as its parameters"
#define URL_PARTS "write the parts into broker_url: redis://user:password@host:port/db"
#define RESULT_URL "write it into result_backend: redis://user:password@host:port/db"

static const struct ignored ignored[] = {
    {"accept_content", "json,application/json", "messages are read as json only"},
    {"beat_cron_starting_deadline", NULL, NULL},
    {"beat_max_loop_interval", NULL, NULL},
    {"beat_schedule", NULL, NULL},
    {"beat_schedule_filename", NULL, NULL},
    {"beat_scheduler", NULL, NULL},
    {"beat_sync_every", NULL, NULL},
    {"broker_channel_error_retry", NULL, NULL},
    {"broker_connection_timeout", NULL, NULL},
    {"broker_failover_strategy", NULL, NULL},
    {"broker_heartbeat", NULL, NULL},
    {"broker_heartbeat_checkrate", NULL, NULL},
    {"broker_host", "", URL_PARTS},
    {"broker_login_method", NULL, NULL},
    {"broker_native_delayed_delivery_queue_type", NULL, NULL},
    {"broker_password", "", URL_PARTS},
    {"broker_pool_limit", NULL, NULL},
    {"broker_port", "", URL_PARTS},
    {"broker_read_url", "", "one broker_url serves reading and writing"},
    {"broker_transport", "redis", URL_PARTS},
    {"broker_use_ssl", "false", TLS},
    {"broker_user", "", URL_PARTS},
    {"broker_vhost", "", URL_PARTS},
    {"broker_write_url", "", "one broker_url serves reading and writing"},
    {"control_queue_durable", NULL, NULL},
    {"control_queue_exclusive", NULL, NULL},
    {"control_queue_expires", NULL, NULL},
    {"control_queue_ttl", NULL, NULL},
    {"enable_utc", "true", "times in messages are UTC"},
    {"event_queue_durable", NULL, NULL},
    {"event_queue_exclusive", NULL, NULL},
    {"event_queue_expires", NULL, NULL},
    {"event_queue_prefix", NULL, NULL},
    {"event_queue_ttl", NULL, NULL},
    {"event_serializer", "json", "events are written as json only"},
    {"imports", NULL, NULL},
    {"include", NULL, NULL},
    {"redis_backend_use_ssl", "false", TLS},
    {"redis_db", "", RESULT_URL},
    {"redis_host", "", RESULT_URL},
    {"redis_max_connections", NULL, NULL},
    {"redis_password", "", RESULT_URL},
    {"redis_port", "", RESULT_URL},
    {"redis_retry_on_timeout", NULL, NULL},
    {"redis_socket_connect_timeout", NULL, NULL},
    {"redis_socket_keepalive", NULL, NULL},
    {"redis_socket_timeout", NULL, NULL},
    {"redis_username", "", RESULT_URL},
    {"result_accept_content", "json,application/json", "results are read as json only"},
    {"result_backend_always_retry", NULL, NULL},
    {"result_backend_base_sleep_between_retries_ms", NULL, NULL},
    {"result_backend_max_retries", NULL, NULL},
    {"result_backend_max_sleep_between_retries_ms", NULL, NULL},
    {"result_cache_max", NULL, NULL},
    {"result_compression", "", "results are stored uncompressed"},
    {"result_exchange", NULL, NULL},
    {"result_exchange_type", NULL, NULL},
    {"result_persistent", NULL, NULL},
    {"security_cert_store", "", SECURITY},
    {"security_certificate", "", SECURITY},
    {"security_digest", NULL, NULL},
    {"security_key", "", SECURITY},
    {"security_key_password", "", SECURITY},
    {"task_allow_error_cb_on_chord_header", NULL, NULL},
    {"task_always_eager", "false", "a worker always runs tasks from the queue"},
    {"task_annotations", NULL, NULL},
    {"task_compression", NULL, NULL},
    {"task_create_missing_queue_exchange_type", NULL, NULL},
    {"task_create_missing_queue_type", NULL, NULL},
    {"task_create_missing_queues", NULL, NULL},
    {"task_default_delivery_mode", NULL, NULL},
    {"task_default_exchange", NULL, NULL},
    {"task_default_exchange_type", NULL, NULL},
    {"task_default_priority", NULL, NULL},
    {"task_default_queue_type", NULL, NULL},
    {"task_default_routing_key", NULL, NULL},
    {"task_eager_propagates", NULL, NULL},
    {"task_protocol", NULL, NULL},
    {"task_publish_retry", NULL, NULL},
    {"task_publish_retry_policy", NULL, NULL},
    {"task_queue_max_priority", NULL, NULL},
    {"task_remote_tracebacks", NULL, NULL},
    {"task_routes", NULL, NULL},
    {"task_serializer", "json", "messages are written as json only"},
    {"task_store_eager_result", NULL, NULL},
    {"worker_agent", NULL, NULL},
    {"worker_autoscaler", NULL, NULL},
    {"worker_cancel_long_running_tasks_on_connection_loss", NULL, NULL},
    {"worker_consumer", NULL, NULL},
    {"worker_deduplicate_successful_tasks", NULL, NULL},
    {"worker_detect_quorum_queues", NULL, NULL},
    {"worker_direct", NULL, NULL},
    {"worker_disable_prefetch", "false", "say worker_prefetch_multiplier 1"},
    {"worker_enable_prefetch_count_reduction", NULL, NULL},
    {"worker_eta_task_limit", NULL, NULL},
    {"worker_hijack_root_logger", NULL, NULL},
    {"worker_log_format", NULL, NULL},
    {"worker_lost_wait", NULL, NULL},
    {"worker_pool_putlocks", NULL, NULL},
    {"worker_proc_alive_timeout", NULL, NULL},
    {"worker_redirect_stdouts", NULL, NULL},
    {"worker_redirect_stdouts_level", NULL, NULL},
    {"worker_task_log_format", NULL, NULL},
    {"worker_timer", NULL, NULL},
    {"worker_timer_precision", NULL, NULL},
};

/* Groups of settings of other brokers' and other result backends', all without meaning here. */
static const char *const ignored_prefixes[] = {
    "arangodb_", "azureblockblob_", "cache_",  "cassandra_", "cosmosdbsql_",
    "couchbase_", "database_",      "elasticsearch_", "gcs_", "s3_",
};

static const struct ignored *ignored_find(const char *name)
{
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
        if (strcmp(ignored[i].name, name) == 0)
            return &ignored[i];
    return NULL;
}

static bool has_ignored_prefix(const char *name)
{
    for (size_t i = 0; i < sizeof ignored_prefixes / sizeof *ignored_prefixes; i++)
        if (strncmp(name, ignored_prefixes[i], strlen(ignored_prefixes[i])) == 0)
            return true;
    return false;
}

/* Is `value`, itself perhaps a list, made only of members of the comma-separated `list`? */
static bool list_covers(const char *list, const char *value)
{
    while (*value) {
        size_t size = strcspn(value, ",");
        bool found = false;
        for (const char *at = list; *at && !found; at += strspn(at, ",")) {
            size_t length = strcspn(at, ",");
            found = length == size && strncasecmp(at, value, size) == 0;
            at += length;
        }
        if (!found)
            return false;
        value += size + (value[size] == ',');
    }
    return true;
}

int setting_name_check(const char *name, const char *value, struct error *err)
{
    const struct ignored *row = ignored_find(name);
    if (!row)
        return has_ignored_prefix(name) ? 0 : ERROR_NOT_FOUND;
    if (!row->only)
        return 0;
    if (value && list_covers(row->only, value))
        return 0;
    return error_set(err, ERROR_UNSUPPORTED, "%s: %s", name, row->instead);
}

static int smallest(int a, int b, int c)
{
    int least = a < b ? a : b;
    return least < c ? least : c;
}

/* Edits (insert, delete, replace, swap of neighbours) that lead from a to b. */
static int edit_distance(const char *a, const char *b)
{
    int width = (int)strlen(b) + 1;
    int *rows = mem_alloc(3 * (size_t)width * sizeof *rows);
    int *before = rows, *above = rows + width, *row = rows + 2 * width;
    for (int j = 0; j < width; j++)
        row[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int *reuse = before;
        before = above;
        above = row;
        row = reuse;
        row[0] = i;
        for (int j = 1; j < width; j++) {
            row[j] = smallest(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                before[j - 2] + 1 < row[j])
                row[j] = before[j - 2] + 1;
        }
    }
    int distance = row[width - 1];
    free(rows);
    return distance;
}

enum { LONGEST_NAME = 80 };

/* Whoever writes --conc or --acks-late left the rest, or the first word, of a name out. */
static bool is_part(const char *name, size_t size, const char *whole)
{
    size_t length = strlen(whole);
    if (size < 4 || size >= length)
        return false;
    const char *tail = whole + length - size;
    return strncmp(name, whole, size) == 0 ||
           (strcmp(name, tail) == 0 && (tail[-1] == '_' || tail[-1] == '-'));
}

const char *name_nearest(const char *name, const char *const *names, int n_names)
{
    size_t size = strlen(name);
    if (size < 2 || size > LONGEST_NAME)
        return NULL;
    const char *best = NULL;
    int least = (int)size / 3 + 2; /* further away it would be a guess */
    for (int i = 0; i < n_names; i++) {
        int distance = is_part(name, size, names[i]) ? 1 : edit_distance(name, names[i]);
        if (distance < least) {
            least = distance;
            best = names[i];
        }
    }
    return best;
}
