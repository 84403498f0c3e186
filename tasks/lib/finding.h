/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_LIB_FINDING_H
#define TASKS_LIB_FINDING_H

#include "tasks/lib/doc.h"

/* What the status of a finding says, in any case: cspm_findings and k8s_findings, ours or others'. */
bool finding_fails(const char *status); /* FAIL, FAILED or OPEN */
bool finding_is_open(const bson_t *finding); /* it fails, and is not muted */
void finding_match_failing(bson_t *filter);

#endif
