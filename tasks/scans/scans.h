/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_SCANS_SCANS_H
#define TASKS_SCANS_SCANS_H

#include "tasks/cworker.h"

cw_outcome execute_cloud_scan(cw_task *t);
cw_outcome finalize_cloud_scan(cw_task *t);
cw_outcome run_scheduled_scans(cw_task *t);
cw_outcome execute_network_scan(cw_task *t);
cw_outcome execute_ssl_scan(cw_task *t);
cw_outcome execute_web_scan(cw_task *t);
cw_outcome execute_container_scan(cw_task *t);

#endif
