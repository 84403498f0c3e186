/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_MAINTENANCE_MAINTENANCE_H
#define TASKS_MAINTENANCE_MAINTENANCE_H

#include "tasks/cworker.h"

cw_handler run_retention_cycle, check_sla_breaches_all_teams, run_data_sync_watchdog;

#endif
