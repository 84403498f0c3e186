# SPDX-License-Identifier: Apache-2.0
"""Fake tools that replay recorded outputs of the real ones, and findings made from those."""
from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

from harness import ROOT

SAMPLES = ROOT / "test/samples"
ASSETS = json.dumps({"columns": [], "rows": [{"resource_id": "arn:1", "name": "one"},
                                             {"resource_id": "arn:2"}]}, indent=1) + "\n"


def sample(name: str) -> str:
    return (SAMPLES / name).read_text()


class FakeTool:
    """An executable that does what `plan` says for each target; see test/tools/fake_tool.py."""

    def __init__(self, folder: Path, tool: str, plan: dict[str, Any]) -> None:
        self.plan_path = folder / f"{tool}.plan"
        self.path = folder / tool
        self.set(plan)
        self.path.write_text(f"#!/bin/sh\nexec {sys.executable} -S {ROOT}/test/tools/fake_tool.py"
                             f' {tool} {self.plan_path} "$@"\n')
        self.path.chmod(0o755)

    def set(self, plan: dict[str, Any]) -> None:
        self.plan_path.write_text(json.dumps(plan))

    def release(self) -> None:
        """Lets steps that hold go on, those of later calls too."""
        Path(f"{self.plan_path}.go").touch()

    @property
    def calls(self) -> list[dict[str, Any]]:
        path = Path(f"{self.plan_path}.calls")
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def finding(resource: str, status: str = "FAIL", region: str = "eu-west-1",
            severity: str = "Critical", **changes: Any) -> dict[str, Any]:
    """One element of prowler's real output, about another resource."""
    made = copy.deepcopy(json.loads(sample("prowler/findings.ocsf.json"))[1])
    made["finding_info"]["uid"] = f"prowler-aws-s3_check-123456789012-{region}-{resource}"
    made["status_code"] = status
    made["severity"] = severity
    made["cloud"]["region"] = region
    made["resources"][0]["uid"] = f"arn:aws:s3:::{resource}"
    made["resources"][0]["name"] = resource
    made.update(changes)
    return made


def report(*findings: dict[str, Any], **step: Any) -> dict[str, Any]:
    """A prowler run that ends with these findings."""
    failed = any(f["status_code"] == "FAIL" for f in findings)
    return {"write": json.dumps(list(findings), indent=1), "exit": 3 if failed else 0, **step}
