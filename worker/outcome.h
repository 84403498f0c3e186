/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_OUTCOME_H
#define WORKER_OUTCOME_H

/* How a task can end, and what follows from it: one row each. The rows are Celery's outcome matrix
 * for late acks (celery.worker.request), except where a comment says otherwise. */

#include <stdbool.h>

/* What happens to the message once the result is durable. */
enum disposal {
    DISPOSE_ACK,    /* removed */
    DISPOSE_RETRY,  /* removed, its retry published in the same step */
    DISPOSE_BACK,   /* behind all that waits, marked redelivered */
    DISPOSE_FRONT,  /* the next one to be taken, marked redelivered */
    DISPOSE_DELAY,  /* into the delayed set, as it came, until its ETA or for `countdown` */
    DISPOSE_DEAD,   /* into the dead-letter list, with the reason */
};

enum store_rule {
    STORE_NEVER,
    STORE_RESULT, /* unless the task ignores its result */
    STORE_ERROR,  /* the same, but task_store_errors_even_if_ignored stores it all the same */
    STORE_ALWAYS, /* there is nobody else who could tell the producer */
};

/* name, stored state, when it is stored, what becomes of the message */
#define OUTCOMES(X)                                                                                \
    X(SUCCEEDED, "SUCCESS", STORE_RESULT, DISPOSE_ACK)                                             \
    X(FAILED, "FAILURE", STORE_ERROR, DISPOSE_ACK)                                                 \
    X(RETRIED, "RETRY", STORE_ERROR, DISPOSE_RETRY)                                                \
    X(IGNORED, 0, STORE_NEVER, DISPOSE_ACK)                                                        \
    X(REJECTED, 0, STORE_NEVER, DISPOSE_ACK)                                                       \
    X(REQUEUED, 0, STORE_NEVER, DISPOSE_BACK)                                                      \
    X(TIMED_OUT, "FAILURE", STORE_ERROR, DISPOSE_ACK)                                              \
    X(TIMED_OUT_REQUEUED, "FAILURE", STORE_ERROR, DISPOSE_BACK) /* …_on_failure_or_timeout off */  \
    X(WORKER_LOST, "FAILURE", STORE_ERROR, DISPOSE_ACK)                                            \
    X(WORKER_LOST_REQUEUED, 0, STORE_NEVER, DISPOSE_BACK) /* reject_on_worker_lost */              \
    X(WORKER_LOST_TOO_OFTEN, "FAILURE", STORE_ERROR, DISPOSE_DEAD) /* task_max_deliveries */       \
    X(REVOKED, "REVOKED", STORE_ERROR, DISPOSE_ACK)                                                \
    X(EXPIRED, "REVOKED", STORE_ERROR, DISPOSE_ACK)                                                \
    X(NOT_UNIQUE, "REVOKED", STORE_ERROR, DISPOSE_ACK) /* an equal task waits or runs */           \
    X(NOT_REGISTERED, "FAILURE", STORE_ALWAYS, DISPOSE_DEAD) /* Celery drops the message */        \
    X(UNREADABLE, "FAILURE", STORE_ALWAYS, DISPOSE_DEAD)     /* Celery stores nothing, may die */  \
    X(POSTPONED, 0, STORE_NEVER, DISPOSE_DELAY)              /* Celery holds it in memory */       \
    X(LEFT, 0, STORE_NEVER, DISPOSE_DELAY)                   /* for a minute: see redelivery.c */  \
    X(GIVEN_BACK, 0, STORE_NEVER, DISPOSE_FRONT)             /* shutdown, orphaned */

enum outcome {
#define OUTCOME_ENUM(name, state, store, dispose) OUTCOME_##name,
    OUTCOMES(OUTCOME_ENUM)
#undef OUTCOME_ENUM
};

struct outcome_row {
    const char *name, *state;
    enum store_rule store;
    enum disposal dispose;
};

extern const struct outcome_row outcome_rows[];

/* {"exc_type", "exc_message": [message], "exc_module"} as Celery stores exceptions; message NULL:
 * no arguments. Caller frees. */
char *exception_text(const char *module, const char *type, const char *message);
char *exception_number(const char *module, const char *type, double number);

#endif
