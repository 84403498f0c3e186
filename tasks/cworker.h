/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CWORKER_H
#define CWORKER_H

/* cworker: the task API. The only header that a task author needs.
 *
 *     #include <cworker.h>
 *
 *     static cw_outcome add(cw_task *t)
 *     {
 *         return cw_return_int(t, cw_int(t, "x") + cw_int(t, "y"));
 *     }
 *     static const struct cw_arg add_args[] = {{.name = "x", .kind = CW_INT},
 *                                              {.name = "y", .kind = CW_INT}, {0}};
 *     static const struct cw_def defs[] = {{.name = "my.add", .run = add, .args = add_args}, {0}};
 *     static const struct cw_table table = {.api = CW_API, .queue = "celery", .defs = defs};
 *     const struct cw_table *const cworker_tables[] = {&table, NULL};
 *
 *     cc -shared -fPIC $(pkg-config --cflags cworker) -o mytasks.so mytasks.c
 *     cworker -A ./mytasks.so
 *
 * A handler runs in a child process (or one of its threads), one delivery at a time, and ends by
 * one verdict: `return cw_…(t, …)`. Whatever it allocated through `t` is freed after it. Ownership:
 * a function that says *takes* frees the value in every case. */

#include <cjson/cJSON.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CW_API 1 /* checked when a plugin is loaded */
#define CW_ID_SIZE 37

typedef struct cw_task cw_task; /* one delivery; valid until the handler returns */

/* Made only by the verdicts below, so that a forgotten verdict does not compile. */
typedef struct cw_outcome {
    uint8_t kind;
} cw_outcome;

typedef cw_outcome cw_handler(cw_task *t);

/* --- registration ----------------------------------------------------------------------------- */

enum cw_kind { CW_ANY, CW_INT, CW_NUM, CW_BOOL, CW_STR, CW_LIST, CW_OBJECT };

/* One argument, by position in this order or by name. Checked before the handler runs: a bad call
 * is a TypeError and is not retried. CW_INT takes integers of any size; cw_int() fails for those
 * beyond 64 bits, cw_digits() does not. */
struct cw_arg {
    const char *name;
    enum cw_kind kind;
    const char *fallback; /* JSON text; NULL: required */
    bool nullable;        /* null is taken besides kind */
    const char *help;
};

enum cw_flags {
    CW_ANY_ARGS = 1,       /* no check: *args, **kwargs as they come */
    CW_ACKS_EARLY = 2,     /* acked when it starts, whatever task_acks_late says */
    CW_ACKS_LATE = 4,
    CW_IGNORE_RESULT = 8,
    CW_REJECT_ON_LOST = 16, /* goes back when its child dies */
    CW_TRACK_STARTED = 32,
};

struct cw_backoff {
    double base;     /* seconds; 0: no backoff, default_retry_delay counts */
    double max;      /* 0: 600 */
    bool no_jitter;  /* full jitter is the default: uniform in [0, delay] */
};

struct cw_def {
    const char *name;
    cw_handler *run;
    const struct cw_arg *args; /* ends with {0}; NULL: none */
    unsigned flags;
    int max_retries;             /* 0: 3; negative: none; CW_FOREVER: without end */
    double default_retry_delay;  /* seconds; 0: 180 */
    double soft_limit, hard_limit; /* seconds; 0: the settings' */
    struct cw_backoff backoff;
    const char *const *autoretry_for; /* exception types, NULL-ended; "*": all */
    const char *rate_limit;      /* "10/m" or NULL */
    const char *help;
    /* Unique work: while one call waits or runs, an equal one is set aside (REVOKED, with a result
     * that names the first). The seconds are how long that outlasts a crash of the worker; 0: not
     * unique. */
    double unique_for;
    const char *const *unique_key; /* arguments by which calls are equal, NULL-ended; NULL: all */
};
#define CW_FOREVER 0x7fffffff

/* An index that the tasks of a table count on; `cworker tasks init` makes those that are
 * missing. */
struct cw_index {
    const char *collection;
    const char *keys;    /* "team_id, -last_seen": fields in order, `-` before a descending one */
    bool unique;
    double expire_after; /* seconds after the date in its one field; 0: documents stay */
};

struct cw_table {
    int api;                      /* CW_API */
    const char *queue;            /* where `cworker call` sends them; NULL: the default queue */
    const struct cw_def *defs;    /* ends with {0} */
    int prefetch_multiplier;      /* of workers of this queue, unless set; 0: the setting's */
    int (*open)(void **ret_data); /* once in each process, before its first task; or NULL */
    void (*close)(void *data);
    const struct cw_index *indexes; /* ends with {0}; or NULL */
    /* Of one run, with -P prefork; 0: no limit. Beyond them the child is lost: WorkerLostError. */
    int64_t max_memory_kb;       /* data of the process: beyond it allocations fail */
    double max_cpu;              /* seconds of CPU time, rounded up */
};

/* What a plugin exports: `const struct cw_table *const cworker_tables[] = {&table, NULL};` */
extern const struct cw_table *const cworker_tables[];

/* --- arguments and the request ---------------------------------------------------------------- */

int64_t cw_int(cw_task *t, const char *arg);
double cw_num(cw_task *t, const char *arg);
bool cw_bool(cw_task *t, const char *arg);
const char *cw_str(cw_task *t, const char *arg);    /* NULL for null */
const char *cw_digits(cw_task *t, const char *arg); /* an integer's exact decimal text */
const cJSON *cw_json(cw_task *t, const char *arg);  /* NULL when not given and without fallback */
bool cw_given(cw_task *t, const char *arg);
const cJSON *cw_args(cw_task *t);   /* the positional arguments as they came */
const cJSON *cw_kwargs(cw_task *t);

struct cw_info {
    const char *id, *name, *queue;
    const char *root_id, *parent_id, *group_id; /* NULL when not set */
    int64_t retries;
    int max_retries;         /* < 0: without end */
    bool redelivered;
    const char *hostname;    /* node name of the worker */
    double soft_limit, hard_limit;
    const cJSON *headers;    /* all headers of the message, custom ones included */
};
const struct cw_info *cw_info(cw_task *t);
/* the message's: priority, delivery_info, reply_to, app_id … */
const cJSON *cw_properties(cw_task *t);

/* --- verdicts --------------------------------------------------------------------------------- */

cw_outcome cw_return(cw_task *t, cJSON *value); /* takes value; NULL is null */
cw_outcome cw_return_int(cw_task *t, int64_t value);
cw_outcome cw_return_digits(cw_task *t, const char *digits); /* an integer of any size */
cw_outcome cw_return_num(cw_task *t, double value);
cw_outcome cw_return_bool(cw_task *t, bool value);
cw_outcome cw_return_str(cw_task *t, const char *value);

/* FAILURE. A plain name is Python's builtin (`ValueError`); a dotted one carries its module
 * (`celery.exceptions.TaskError`). Python raises it again in AsyncResult.get(). autoretry_for
 * applies. */
#define cw_raise(t, type, ...) cw_raise_at((t), __FILE__, __LINE__, __func__, (type), __VA_ARGS__)
/* The same with the exception's arguments as a JSON array; takes args. */
#define cw_raise_args(t, type, args)                                                               \
    cw_raise_args_at((t), __FILE__, __LINE__, __func__, (type), (args))
/* RETRY in `countdown` seconds (< 0: by the task's backoff or default delay); past max_retries the
 * exception itself, or MaxRetriesExceededError when type is NULL (the text is lost then). */
#define cw_retry(t, countdown, type, ...)                                                          \
    cw_retry_at((t), __FILE__, __LINE__, __func__, (countdown), (type), __VA_ARGS__)
/* Raises what the last failed helper of this delivery reported, with its own type and
 * transience. */
#define cw_fail(t) cw_fail_at((t), __FILE__, __LINE__, __func__)
/* The right exception for why we were asked to stop (see cw_stopping). */
#define cw_stopped(t) cw_stopped_at((t), __FILE__, __LINE__, __func__)

cw_outcome cw_reject(cw_task *t, bool requeue); /* stores nothing; requeue: behind all that waits */
cw_outcome cw_ignore(cw_task *t);               /* stores nothing, acked */

cw_outcome cw_raise_at(cw_task *t, const char *file, int line, const char *function,
                       const char *type, const char *fmt, ...)
    __attribute__((format(printf, 6, 7)));
cw_outcome cw_raise_args_at(cw_task *t, const char *file, int line, const char *function,
                            const char *type, cJSON *args);
cw_outcome cw_retry_at(cw_task *t, const char *file, int line, const char *function,
                       double countdown, const char *type, const char *fmt, ...)
    __attribute__((format(printf, 7, 8)));
cw_outcome cw_fail_at(cw_task *t, const char *file, int line, const char *function);
cw_outcome cw_stopped_at(cw_task *t, const char *file, int line, const char *function);

/* --- while it runs ---------------------------------------------------------------------------- */

/* State PROGRESS, or one of the task's own; takes meta. */
int cw_progress(cw_task *t, cJSON *meta);
int cw_state(cw_task *t, const char *state, cJSON *meta);
/* An event of the task's own for whoever listens (celery events, Flower): `type` as in
 * "task-copied", `fields` an object, which is taken, or NULL. */
int cw_event(cw_task *t, const char *type, cJSON *fields);

enum cw_stop { CW_GO, CW_SOFT_LIMIT, CW_REVOKED, CW_SHUTDOWN };
enum cw_stop cw_stopping(const cw_task *t); /* one load: for inner loops */
double cw_time_left(const cw_task *t);      /* seconds to the nearer limit; HUGE_VAL without one */
int cw_sleep(cw_task *t, double seconds);   /* 0; < 0 when it woke early because of a stop */

enum cw_level { CW_DEBUG = 10, CW_INFO = 20, CW_WARNING = 30, CW_ERROR = 40 };
void cw_log(cw_task *t, enum cw_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* --- memory of the delivery, clean-up in reverse order ---------------------------------------- */

void *cw_alloc(cw_task *t, size_t size); /* zeroed; never NULL */
char *cw_printf(cw_task *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void cw_defer(cw_task *t, void (*fn)(void *), void *arg);

/* --- the outside ------------------------------------------------------------------------------ */
/* Helpers return 0 or < 0 and remember the reason for cw_fail. They end early on a stop. */

/* That reason as text ("ConnectionError: …"), for a document that shall show it; NULL: none. */
const char *cw_problem_text(cw_task *t, bool *ret_transient);
/* For helpers of your own: remembers a reason for cw_fail, and returns -1. A transient one is
 * retried. */
int cw_problem(cw_task *t, bool transient, const char *type, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

struct cw_http {
    const char *method;         /* NULL: GET, or POST with a body */
    const char *url;
    const char *const *headers; /* "Name: value", NULL-ended */
    const char *body;
    size_t body_size;           /* 0: strlen(body) */
    double timeout;             /* seconds; 0: 30 */
    size_t max_size;            /* decoded bytes; 0: 64 MiB */
    bool allow_any_status;      /* else 4xx and 5xx fail */
    bool allow_private;         /* loopback, private, link-local addresses too */
    bool no_redirects;          /* a 3xx is the reply */
    /* TLS towards the origin of `url` (a redirect elsewhere gets none of it), PEM texts. NULL: the
     * system's authorities, and no certificate of ours. */
    const char *ca, *client_cert, *client_key;
    /* Called with each decoded piece of a 2xx body (of a 206 only if `headers` has a Range) instead
     * of keeping it, so that a large one needs no memory; < 0 ends the transfer (the call fails by
     * its cw_problem, else with ValueError). May be NULL. */
    int (*on_body)(cw_task *t, const char *data, size_t size, void *arg);
    void *arg;
};
struct cw_reply {
    long status;
    const char *body; /* lives as long as the delivery; NUL-terminated */
    size_t size;
    const char *content_type;
    double retry_after;   /* seconds; 0: none */
    const cJSON *headers; /* of the last reply: names in lower case, the last of each name */
    bool open_ended;      /* only the connection's end ended the body: a cut shows no otherwise */
};
/* What is packed (gzip, deflate) and not whole fails, like what its length or chunks say is cut. */
int cw_http(cw_task *t, const struct cw_http *request, struct cw_reply *ret_reply);
/* Would cw_http connect to it without allow_private? Text of an IPv4 or IPv6 address. */
bool cw_is_public_address(const char *address);
/* in lower case; NULL: absent */
const char *cw_header(const struct cw_reply *reply, const char *name);

/* A client of its own for this delivery, from the process' pool, and a collection of it: the same
 * ones each time, given back by themselves. NULL on failure. From <mongoc/mongoc.h>; the database is
 * app_database_url's. */
struct _mongoc_client_t *cw_mongo(cw_task *t);
struct _mongoc_collection_t *cw_collection(cw_task *t, const char *name);

/* Runs a program: argv, no shell, clean environment, its own temporary folder. */
struct cw_command {
    const char *const *argv; /* argv[0] is looked up in PATH */
    const char *input;       /* standard input, or NULL */
    size_t input_size;
    const char *const *environment; /* "NAME=value" beside PATH, HOME, TMPDIR, LANG; NULL: none */
    const char *folder;             /* it runs there; NULL: where the worker runs */
    double timeout;                 /* seconds; 0: what the limits leave */
    size_t max_output;              /* bytes of standard output; 0: 64 MiB */
    size_t max_file;                /* bytes of each file it writes: beyond it, SIGXFSZ; 0: any */
    /* Called with each line of standard output (newline cut, at most 16 MiB) instead of keeping
     * them; may be NULL. */
    void (*on_line)(cw_task *t, const char *line, size_t size, void *arg);
    /* Called about every second while it runs; < 0 (after cw_problem) ends it. May be NULL. */
    int (*on_tick)(cw_task *t, double seconds, void *arg);
    void *arg;
    const char *hint; /* added to the error when the program is missing: how to install it */
};
struct cw_exit {
    int status, signal;      /* exit status, or the signal that ended it */
    const char *output;      /* standard output, unless on_line took it */
    size_t output_size;
    const char *errors;      /* the end of standard error, at most 16 KiB */
};
int cw_exec(cw_task *t, const struct cw_command *command, struct cw_exit *ret_exit);

const char *cw_tmpdir(cw_task *t);                    /* removed with the delivery */
const char *cw_setting(cw_task *t, const char *name); /* environment CWORKER_<NAME>, or NULL */
/* environment NAME, or the file NAME_FILE names. From then on, what it gave (six bytes or more) is
 * masked in this delivery's errors and log lines. */
const char *cw_secret(cw_task *t, const char *name);
void *cw_data(cw_task *t);                            /* what the table's open() made */

/* --- other tasks ------------------------------------------------------------------------------ */

struct cw_send {
    const char *task;
    cJSON *args, *kwargs;   /* taken; NULL: none */
    const char *queue;      /* NULL: the queue of the task's table, else the default queue */
    double countdown;       /* seconds */
    const char *eta;        /* ISO 8601, instead of countdown */
    double expires;         /* seconds from its sending; 0: never */
    int priority;
    const char *id;         /* NULL: a new one */
    cJSON *headers;         /* taken; an object of custom headers; NULL: none */
    bool ignore_result;
    bool immutable;         /* in a canvas: takes no result of what comes before it */
};
/* Leaves with this task's SUCCESS, in the same atomic step as its ack. */
int cw_send(cw_task *t, struct cw_send send, char ret_id[CW_ID_SIZE]);

/* Canvases: what is to run, put together before it is sent. A signature is a plain JSON object;
 * each function takes what it is given and returns a new signature, so that they nest. Lists are
 * JSON arrays of signatures.
 *
 *     cJSON *parts = cJSON_CreateArray();
 *     for (...)
 *         cJSON_AddItemToArray(parts, cw_sig((struct cw_send){.task = "scans.one", .args = …}));
 *     cJSON *body = cw_sig((struct cw_send){.task = "scans.sum", .immutable = true, .args = …});
 *     cw_apply(t, cw_chord(parts, body), body_id);
 */
cJSON *cw_sig(struct cw_send call);
cJSON *cw_chain(cJSON *list); /* one after the other, each with the result before it */
cJSON *cw_group(cJSON *list); /* all at once */
/* all at once, then body with the list of their results */
cJSON *cw_chord(cJSON *list, cJSON *body);
void cw_link(cJSON *sig, cJSON *callback);      /* takes callback: runs when sig has succeeded */
void cw_link_error(cJSON *sig, cJSON *errback); /* takes errback: runs when sig has failed */
/* Leaves with this task's SUCCESS, as cw_send; takes sig. ret_id (or NULL): of the result to wait
 * for, that of a chain's last task, of a chord's body, or the group's. */
int cw_apply(cw_task *t, cJSON *sig, char ret_id[CW_ID_SIZE]);
/* Verdict: sig, which is taken, stands in for this task under its id, with its callbacks, its place
 * in a group or chord, and the rest of its chain. */
cw_outcome cw_replace(cw_task *t, cJSON *sig);

/* As cw_apply, and sig becomes one more part of the chord that this task is a part of: the body
 * waits for it and gets its result too. Only where Redis keeps the results, as in Celery; elsewhere
 * the task fails by NotImplementedError. < 0: this task is in no chord. */
int cw_add_to_chord(cw_task *t, cJSON *sig);

/* The stored result of another task: {"status", "result", "traceback", "children", "date_done",
 * "task_id", …}, valid until the handler returns. NULL with code 0 in ret_code: nothing is stored
 * (yet); < 0: the result store did not answer. ret_code may be NULL. */
const cJSON *cw_result(cw_task *t, const char *id, int *ret_code);

/* Revokes tasks in the whole fleet once this task has succeeded, before its result is stored. */
int cw_revoke(cw_task *t, const char *const *ids, size_t n, bool terminate);

#ifdef __cplusplus
}
#endif
#endif
