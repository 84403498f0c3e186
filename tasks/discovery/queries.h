/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_DISCOVERY_QUERIES_H
#define TASKS_DISCOVERY_QUERIES_H

#include "tasks/cworker.h"

/* The queries of one provider: the shipped ones (queries/PROVIDER.sql), changed by those in the
 * folder of the setting STEAMPIPE_QUERIES. A file is a row of
 *
 *     -- name: ec2_instance
 *     select arn as resource_id, … from … where region = '{region}';
 *
 * Of two queries of one name the later counts; one without SQL takes the earlier away. */

enum { QUERIES_MAX = 256 };

struct query {
    const char *name, *sql;
};

struct queries {
    int n;
    struct query list[QUERIES_MAX];
};

/* Texts live as long as the delivery. ValueError where there are none for the provider. */
int queries_load(cw_task *t, const char *provider, struct queries *ret);
/* `source` names the file in errors. */
int queries_add(cw_task *t, const char *source, const char *text, struct queries *to);
/* The SQL with {region} and {account} filled in; both must have passed check_name. NULL: it wants
 * an account and there is none. */
const char *query_fill(cw_task *t, const char *sql, const char *region, const char *account);

#endif
