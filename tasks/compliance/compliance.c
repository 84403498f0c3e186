/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/compliance/compliance.h"

#include "tasks/lib/policy.h"
#include "tasks/tables.h"

/* The queue `compliance`: prowler's findings, what they mean for each framework, and a picture a
 * day. */

static const struct cw_arg prowler_args[] = {
    {"scan_run_id", CW_STR, .help = "_id of the document in scan_runs"},
    {"regions", CW_LIST, .fallback = "null", .nullable = true, .help = "null: those of the run"},
    {"frameworks", CW_LIST, .fallback = "null", .nullable = true, .help = "null: those of the run"},
    {0},
};

static const struct cw_arg refresh_args[] = {
    {"team_id", CW_STR, .fallback = "null", .nullable = true, .help = "null: every team"},
    {0},
};

static const struct cw_arg team_args[] = {
    {"team_id", CW_STR, .help = "the team"},
    {"day", CW_STR, .help = "UTC day, as in 2026-11-21"},
    {0},
};

static const struct cw_def defs[] = {
    {
        .name = "compliance.execute_prowler_scan",
        .run = execute_prowler_scan,
        .args = prowler_args,
        BUILTIN_POLICY,
        .help = "prowler over the regions of a scan run, its findings into cspm_findings",
    },
    {
        .name = "compliance.run_compliance_refresh",
        .run = run_compliance_refresh,
        .args = refresh_args,
        BUILTIN_POLICY,
        .help = "passes, failures and score of each framework and control into compliance_posture",
    },
    {
        .name = "compliance.snapshot_all_teams",
        .run = snapshot_all_teams,
        BUILTIN_POLICY,
        .help = "sends snapshot_team for every team that has a posture",
    },
    {
        .name = "compliance.snapshot_team",
        .run = snapshot_team,
        .args = team_args,
        BUILTIN_POLICY,
        .help = "one team's posture of the day into compliance_snapshots",
    },
    {0},
};

static const struct cw_index indexes[] = {
    {"cspm_findings", "team_id, uid, resource_id", .unique = true},
    {"cspm_findings", "team_id, cloud_account_id, scan_region, status"},
    {"cspm_findings", "scan_run_id, status"},
    {"compliance_posture", "team_id, framework", .unique = true},
    {"compliance_snapshots", "team_id, day", .unique = true},
    {0},
};

const struct cw_table compliance_table = {
    .api = CW_API,
    .queue = "compliance",
    .defs = defs,
    .prefetch_multiplier = 1,
    .indexes = indexes,
};
