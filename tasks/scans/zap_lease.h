/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_SCANS_ZAP_LEASE_H
#define TASKS_SCANS_ZAP_LEASE_H

#include "tasks/cworker.h"

/* One scan at a time on each ZAP daemon: its state (sites, alerts, queues) is one for all. */

/* 1: the daemon is this task's, and idle; 0: another scan has it; -1 failed. */
int zap_claim(cw_task *t, const char *scan_id);
/* To be called about every second; 0, or < 0 when the daemon is not ours any more. */
int zap_keep(cw_task *t, double seconds, double *kept_at);
/* clean: what was started there has ended. */
void zap_release(cw_task *t, bool clean);

#endif
