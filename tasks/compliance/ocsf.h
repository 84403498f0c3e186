/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_COMPLIANCE_OCSF_H
#define TASKS_COMPLIANCE_OCSF_H

#include "tasks/lib/doc.h"

/* One finding of prowler's OCSF output, the fields that cspm_findings keeps. Texts belong to the
 * tree. */
struct ocsf_finding {
    const char *uid, *check, *status; /* FAIL, PASS or MANUAL */
    const char *severity;             /* see tasks/lib/severity.h */
    const char *resource;             /* its id; never NULL */
    bool muted;
    const cJSON *tree;
};

/* What is wrong with it as a finding, or NULL. */
const char *ocsf_read(const cJSON *element, struct ocsf_finding *ret);

/* Its fields for $set, without its key and what the scan adds. */
void ocsf_fields(const struct ocsf_finding *f, bson_t *set);

#endif
