/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_COMPLIANCE_COMPLIANCE_H
#define TASKS_COMPLIANCE_COMPLIANCE_H

#include "tasks/cworker.h"

cw_outcome execute_prowler_scan(cw_task *t);
cw_outcome run_compliance_refresh(cw_task *t);
cw_outcome snapshot_all_teams(cw_task *t);
cw_outcome snapshot_team(cw_task *t);

#endif
