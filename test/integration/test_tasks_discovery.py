# SPDX-License-Identifier: Apache-2.0
"""Discovery by Steampipe: its program as documented (a fake replays it), its service's protocol from a
real PostgreSQL with tables of the plugin's names."""
from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from pymongo.database import Database

from harness import Worker, get, wait_state
from services.postgres import PostgresServer, is_installed
from services.process import free_port, wait_until
from tools import FakeTool, sample

EC2 = {"rows": [
    {"resource_id": "arn:1", "name": "web", "state": "running", "instance_id": "i-1",
     "ips": ["10.0.0.5", None], "macs": "0A:00:00:00:00:01", "hostnames": None,
     "tags": {"Name": "web", "a.b": "$c"}}]}
NOTHING = {"output": '{"columns": [], "rows": null}'}


@pytest.fixture
def database(indexed_database: Database) -> Database:
    for run, provider in (("run-1", "aws"), ("run-2", "Azure"), ("run-3", "other")):
        indexed_database.scan_runs.insert_one({
            "_id": run, "team_id": "team-1", "cloud_account_id": "123456789012",
            "provider": provider, "status": "RUNNING"})
    return indexed_database


@pytest.fixture
def steampipe(tmp_path: Path) -> FakeTool:
    return FakeTool(tmp_path, "steampipe", {"aws_ec2_instance": {"output": json.dumps(EC2)},
                                            "*": NOTHING})


@pytest.fixture
def start(cworker: Callable[..., Worker], database: Database, steampipe: FakeTool) -> Callable[...,
          Worker]:
    return lambda **env: cworker(database=database, queues="discovery",
        env={"CWORKER_STEAMPIPE": str(steampipe.path), **env})


def send(app: Celery, run: str = "run-1", region: str = "eu-west-1") -> Any:
    return app.send_task("discovery.execute_steampipe_discovery", args=(run, region),
                         queue="discovery")


def expect_failure(result: Any, type_name: str, words: str) -> None:
    wait_state(result, "FAILURE")
    assert type(result.result).__name__ == type_name, result.result
    assert words in str(result.result)


# --- the program ---

def test_columns(app: Celery, start: Callable[..., Worker], database: Database,
                 steampipe: FakeTool) -> None:
    start(AWS_ACCESS_KEY_ID="AKIA", AZURE_CLIENT_SECRET="other")
    for _ in range(2):
        assert get(send(app))["assets"] == 1
        asset = database.assets.find_one()
        assert database.assets.count_documents({}) == 1
        assert (asset["resource_type"], asset["instance_id"]) == ("ec2_instance", "i-1")
        assert (asset["ips"], asset["hostnames"]) == (["10.0.0.5"], [])
        assert asset["macs"] == ["0A:00:00:00:00:01"]
        assert asset["attributes"] == {"tags": {"Name": "web", "a.b": "$c"}}
    call = steampipe.calls[0]
    assert call["argv"][0] == "query" and call["argv"][2:] == ["--output", "json"]
    assert "region = 'eu-west-1'" in call["argv"][1] and "{" not in call["argv"][1]
    assert call["env"]["AWS_ACCESS_KEY_ID"] == "AKIA" and "AZURE_CLIENT_SECRET" not in call["env"]


def test_what_a_row_no_longer_tells(app: Celery, start: Callable[..., Worker], database: Database,
                                    steampipe: FakeTool) -> None:
    start()
    get(send(app))
    bare = {"rows": [{"resource_id": "arn:1", "name": None, "state": ""}]}
    steampipe.set({"aws_ec2_instance": {"output": json.dumps(bare)}, "*": NOTHING})
    database.scan_runs.insert_one({**database.scan_runs.find_one({"_id": "run-1"}), "_id": "next"})
    get(send(app, "next"))
    asset, = database.assets.find()
    assert (asset["name"], asset["state"], asset["instance_id"]) == (None, None, None)


def test_tags_of_any_name(app: Celery, start: Callable[..., Worker], database: Database,
                          steampipe: FakeTool) -> None:
    """One that no store would take costs the region none of its assets."""
    tags = {"": "none", "a.b/c": "dots", "$set": {"$where": "1"}, "x\ufffe": "half"}
    row = {"resource_id": "arn:1", "tags": tags, "ips": ["10.0.0.1", None, 7]}
    steampipe.set({"aws_vpc": {"output": json.dumps([row, {"resource_id": "arn:2"}])}, "*": NOTHING})
    start()
    for _ in range(2):
        assert get(send(app))["status"] == "COMPLETED"
        assert database.assets.count_documents({}) == 2
        kept = database.assets.find_one({"resource_id": "arn:1"})["attributes"]["tags"]
        assert kept["_"] == "none" and kept["a.b/c"] == "dots"


@pytest.mark.parametrize("output", ['{"error": "no plugin"}', '{"rows": {}}', '{"rows": "none"}', "{}"])
def test_what_is_no_answer_makes_nothing_gone(app: Celery, start: Callable[..., Worker],
                                              database: Database, steampipe: FakeTool,
                                              output: str) -> None:
    start()
    get(send(app))
    steampipe.set({"aws_ec2_instance": {"output": output}, "*": NOTHING})
    done = get(send(app, region="eu-west-1"))
    assert (done["status"], done["gone"]) == ("PARTIAL", 0)
    assert database.assets.find_one()["gone"] is False
    assert '"rows"' in database.scan_jobs.find_one()["errors"][0]


def test_documented_output(app: Celery, start: Callable[..., Worker], database: Database,
                           steampipe: FakeTool, tmp_path: Path) -> None:
    """The documented shape has no resource_id: a row without one is refused, by name of the query."""
    steampipe.set({"aws_vpc": {"output": sample("steampipe/query-output.json")}, "*": NOTHING})
    start()
    done = get(send(app))
    assert done["status"] == "PARTIAL"
    job = database.scan_jobs.find_one()
    assert len(job["errors"]) == 1 and "a row of vpc without resource_id" in job["errors"][0]


def test_own_queries(app: Celery, start: Callable[..., Worker], database: Database,
                     steampipe: FakeTool, tmp_path: Path) -> None:
    steampipe.set({"*": NOTHING, "my_table": {"output": '[{"resource_id": "mine", "x": 7}]'}})
    (tmp_path / "azure.sql").write_text(
        "-- ours\n-- name: sql_server\n\n-- name: mine\nselect 1 from my_table\n"
        "  -- a comment\n  where r = '{region}' and a = '{account}' and j = '{}';\n")
    start(CWORKER_STEAMPIPE_QUERIES=str(tmp_path))
    assert get(send(app, "run-2", "westeurope"))["assets"] == 1
    asset = database.assets.find_one()
    assert (asset["provider"], asset["attributes"]["x"]) == ("azure", 7)
    said = {call["target"]: call["argv"][1] for call in steampipe.calls}
    assert "azure_sql_server" not in said and "azure_storage_account" in said
    assert said["my_table"] == ("select 1 from my_table\nwhere r = 'westeurope' and "
                                "a = '123456789012' and j = '{}'")


@pytest.mark.parametrize("text, words", [
    ("select 1;", "before the first"),
    ("-- name: ../x\nselect 1", "name"),
    ("-- name: \nselect 1", "name"),
    ("-- name: a\n\0", "not a file of queries"),
])
def test_wrong_queries(app: Celery, start: Callable[..., Worker], tmp_path: Path,
                       steampipe: FakeTool, text: str, words: str) -> None:
    (tmp_path / "aws.sql").write_text(text)
    start(CWORKER_STEAMPIPE_QUERIES=str(tmp_path))
    expect_failure(send(app), "ValueError", words)
    assert steampipe.calls == []


def test_unknown_provider_and_hostile_regions(app: Celery, start: Callable[..., Worker],
                                              steampipe: FakeTool) -> None:
    start()
    expect_failure(send(app, "run-3"), "ValueError", "CWORKER_STEAMPIPE_QUERIES")
    expect_failure(send(app, "none"), "LookupError", "none")
    for region in ("west' or '1'='1", "--help", "a b", "", "westeurope;"):
        expect_failure(send(app, "run-2", region), "TypeError", "region")
    assert steampipe.calls == []


def test_cancelled_while_slow(app: Celery, start: Callable[..., Worker], database: Database,
                              steampipe: FakeTool) -> None:
    steampipe.set({"*": {"hold": True}})
    start()
    result = send(app)
    wait_until(lambda: steampipe.calls, what="the program")
    database.scan_runs.update_one({"_id": "run-1"}, {"$set": {"status": "CANCELLED"}})
    assert get(result) == "CANCELLED"


# --- the service ---

@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    if not is_installed():
        pytest.skip("no PostgreSQL here (Debian: postgresql)")
    with PostgresServer() as server:
        server.sql("""
            create table aws_ec2_instance (arn text, title text, instance_state text, instance_id text,
                instance_type text, vpc_id text, tags jsonb, private_ip_address inet,
                public_ip_address inet, network_interfaces jsonb, private_dns_name text, region text);
            insert into aws_ec2_instance select 'arn:i' || n, 'web ' || n, 'running', 'i-' || n, 't3',
                'vpc-1', '{"a": 1}', '10.0.0.5', null, '[{"MacAddress": "0a:00:00:00:00:01"}]',
                'ip-10-0-0-5', 'eu-west-1' from generate_series(1, 1200) n;
            create table aws_s3_bucket (arn text, name text, tags jsonb, region text);
            create table aws_rds_db_instance (arn text, title text, status text, engine text,
                publicly_accessible bool, tags jsonb, endpoint_address text, region text);
            create table aws_lambda_function (arn text, name text, state text, runtime text, tags jsonb,
                region text);
            create table aws_vpc (arn text, title text, state text, cidr_block cidr, tags jsonb, region text);
            create table aws_vpc_security_group (arn text, title text, vpc_id text, tags jsonb, region text);
            create table aws_eks_cluster (arn text, name text, status text, version text, tags jsonb, region text);
            """)
        yield server


def test_service(app: Celery, start: Callable[..., Worker], database: Database,
                 postgres: PostgresServer, steampipe: FakeTool) -> None:
    start(STEAMPIPE_SERVICE_URL=postgres.url)
    for _ in range(2):
        done = get(send(app))
        assert (done["status"], done["assets"], done["gone"]) == ("COMPLETED", 1200, 0)
    asset = database.assets.find_one({"resource_id": "arn:i7"})
    assert (asset["ips"], asset["macs"]) == (["10.0.0.5"], ["0a:00:00:00:00:01"])
    assert asset["attributes"]["tags"] == {"a": 1} and asset["hostnames"] == ["ip-10-0-0-5"]
    assert get(send(app, region="us-east-1"))["assets"] == 0
    assert database.assets.count_documents({"gone": False}) == 1200
    assert steampipe.calls == []


def test_service_fails(app: Celery, start: Callable[..., Worker], database: Database,
                       postgres: PostgresServer, tmp_path: Path) -> None:
    (tmp_path / "aws.sql").write_text(
        "-- name: none\nselect a from nowhere;\n-- name: two\nselect 1; drop table aws_vpc;\n"
        "-- name: late\nselect arn as resource_id, 1 / (n - 2) as x from "
        "(select 'a' as arn, n from generate_series(1, 3) n) x;\n-- name: anonymous\nselect 1 as name;")
    start(STEAMPIPE_SERVICE_URL=postgres.url, CWORKER_STEAMPIPE_QUERIES=str(tmp_path))
    assert get(send(app))["status"] == "PARTIAL"
    errors = database.scan_jobs.find_one()["errors"]
    assert len(errors) == 4
    assert "nowhere" in errors[0] and "42P01" in errors[0]
    assert "syntax error" in errors[1] and "division by zero" in errors[2]
    assert "without resource_id" in errors[3]
    assert postgres.sql("select count(*) from aws_vpc").strip() == "0"


def test_service_refuses_or_is_down(app: Celery, start: Callable[..., Worker], database: Database,
                                    postgres: PostgresServer) -> None:
    worker = start(STEAMPIPE_SERVICE_URL=postgres.url.replace(postgres.password, "wr0ng-secret"))
    expect_failure(send(app), "PermissionError", "password authentication failed")
    assert "wr0ng-secret" not in worker.log + str(list(database.scan_jobs.find()))
    worker.stop()
    start(STEAMPIPE_SERVICE_URL=f"postgresql://cw@127.0.0.1:{free_port()}/x")
    wait_state(send(app), "RETRY")


@pytest.mark.parametrize("url", ["postgresql://u:hun@ter2@127.0.0.1:1/x", "postgresql://u:hun/ter2@h/x",
                                 "postgresql://hun:ter2/x", "postgresql://u:hun%zzter2@h/x", "hunter2"])
def test_no_piece_of_a_service_password_is_told(app: Celery, start: Callable[..., Worker],
                                                database: Database, url: str) -> None:
    worker = start(STEAMPIPE_SERVICE_URL=url)
    result = send(app)
    wait_state(result, "FAILURE")
    if "without libpq" in str(result.result):
        pytest.skip("no libpq in this cworker")
    assert "STEAMPIPE_SERVICE_URL is not like" in str(result.result)
    told = worker.log + str(list(database.scan_jobs.find())) + str(result.traceback)
    assert "ter2" not in told and "hun" not in told


def test_service_is_cancelled(app: Celery, start: Callable[..., Worker], database: Database,
                              postgres: PostgresServer, tmp_path: Path) -> None:
    (tmp_path / "aws.sql").write_text("-- name: slow\nselect pg_sleep(60);")
    start(STEAMPIPE_SERVICE_URL=postgres.url, CWORKER_STEAMPIPE_QUERIES=str(tmp_path))
    result = send(app)
    active = "select count(*) from pg_stat_activity where state = 'active' and query like '%pg_sleep(60)%q'"
    wait_until(lambda: postgres.sql(active).strip() == "1", what="the query")
    database.scan_runs.update_one({"_id": "run-1"}, {"$set": {"status": "CANCELLED"}})
    assert get(result) == "CANCELLED"
    wait_until(lambda: postgres.sql(active).strip() == "0", what="its end on the server")
