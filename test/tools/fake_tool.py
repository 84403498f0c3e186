#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Plays prowler, testssl, nmap, trivy or steampipe from a plan: fake_tool.py TOOL PLAN ARGUMENTS…

The plan is JSON: what to do for a target ("*": any other). Each call's arguments and environment are
appended to PLAN.calls, so that tests see what was run and how often.

  hold: it works until the file PLAN.go exists   write: text of the report (absent: no file)
  output, errors: what is said                   exit: exit status
  then: what to do for the same target after the first time
"""
from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path


def value_of(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def target_and_report(tool: str, arguments: list[str]) -> tuple[str, Path | None]:
    if tool == "prowler":
        folder, name = value_of(arguments, "-o"), value_of(arguments, "-F")
        account = ("--region", "--subscription-id", "--project-id", "--context")
        option = next(name for name in account if name in arguments)
        return value_of(arguments, option), Path(folder, f"{name}.ocsf.json")
    if tool == "testssl":
        return arguments[-1], Path(value_of(arguments, "--jsonfile"))
    if tool == "trivy":
        return arguments[-1], Path(value_of(arguments, "--output"))
    if tool == "steampipe":  # the first table of the query
        return re.search(r"\bfrom (\w+)", arguments[1])[1], None
    return arguments[-1], None


def main() -> int:
    tool, plan_path, *arguments = sys.argv[1:]
    plan = json.loads(Path(plan_path).read_text())
    target, report = target_and_report(tool, arguments)
    calls = Path(f"{plan_path}.calls")
    before = calls.read_text().count(f'"target": {json.dumps(target)}') if calls.exists() else 0
    with open(calls, "a") as file:
        file.write(json.dumps({"target": target, "argv": arguments, "env": dict(os.environ), "cwd": os.getcwd(),
                               "pid": os.getpid()}) + "\n")
    step = plan.get(target) or plan["*"]
    if before and "then" in step:
        step = step["then"]
    sys.stdout.write(step.get("output", ""))
    sys.stderr.write(step.get("errors", ""))
    sys.stdout.flush()
    while step.get("hold") and not Path(f"{plan_path}.go").exists():
        time.sleep(0.02)
    if report and "write" in step:
        report.write_text(step["write"])
    return step.get("exit", 0)


if __name__ == "__main__":
    sys.exit(main())
