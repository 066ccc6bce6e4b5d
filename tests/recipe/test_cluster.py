"""Ports of a job, and asking Ray for its nodes; no Ray is started."""

import socket
from pathlib import Path

import pytest

from data_prep.program import InputError
from recipe.cluster import (
    BLOCK,
    FIRST_WORKER,
    check_cpus,
    check_ports,
    main,
    missing_nodes,
    parse,
    ray_command,
    ray_ports,
    short_temp_dir,
    wait_for_head,
    wait_for_nodes,
)
from recipe.program import compose_config, name_gpus_once

ARGUMENTS = ["--ip", "10.0.0.2", "--address", "10.0.0.1:20000", "--temp-dir", "/tmp/ray-1"]


def node(address: str, alive: bool = True) -> dict[str, object]:
    return {"NodeManagerAddress": address, "Alive": alive}


@pytest.fixture
def listener():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_machine_with_too_few_cpus_is_refused(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = compose_config("train", ["data.dir=D", "cluster.gpus_per_node=200"])
    with pytest.raises(InputError, match=r"reserves 610 .* set cluster\.ray\.num_cpus=610"):
        check_cpus(config)
    check_cpus(compose_config("train", ["data.dir=D", "cluster=cpu"]))  # declared
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # its count is not known here
    check_cpus(config)


def test_ports_are_different_and_below_those_of_workers():
    ports = list(ray_ports(20000, head=True).values())
    assert len(set(ports)) == len(ports)
    assert all(20000 <= port < 20000 + FIRST_WORKER for port in ports)


def test_a_taken_port_is_named(listener):
    with pytest.raises(InputError, match=f"node7: port {listener} is taken.*THINKVG_PORT"):
        check_ports([listener], "node7")


def test_a_port_that_is_none_is_named():
    with pytest.raises(InputError, match="port 70000 is not usable"):
        check_ports([70000], "node7")


def test_free_ports_pass(listener):
    check_ports([], "node7")


def test_every_port_of_ray_is_explicit():
    command = ray_command(parse(["start", *ARGUMENTS, "--", "--num-gpus=2"]))
    assert "--address=10.0.0.1:20000" in command
    assert "--node-ip-address=10.0.0.2" in command
    assert f"--max-worker-port={20000 + BLOCK - 1}" in command
    assert command[-1] == "--num-gpus=2"
    head = ray_command(parse(["start", *ARGUMENTS, "--head"]))
    assert "--port=20000" in head
    assert not any(option.startswith("--address") for option in head)


def test_slurm_s_second_name_for_gpus_goes():
    environment = {"CUDA_VISIBLE_DEVICES": "0,1", "ROCR_VISIBLE_DEVICES": "0,1"}
    name_gpus_once(environment)
    assert environment == {"CUDA_VISIBLE_DEVICES": "0,1"}
    amd = {"ROCR_VISIBLE_DEVICES": "0"}
    name_gpus_once(amd)
    assert amd == {"ROCR_VISIBLE_DEVICES": "0"}


def test_a_head_that_does_not_answer_is_named(listener):
    wait_for_head(f"127.0.0.1:{listener}", 5)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(InputError, match="did not answer within 0 s"):
            wait_for_head(f"127.0.0.1:{closed.getsockname()[1]}", 0)


def test_a_taken_port_ends_the_start_with_one_line(listener, capsys):
    address = f"127.0.0.1:{listener - 1}"
    arguments = ["start", "--node", "node7", "--ip", "127.0.0.1", "--address", address]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--temp-dir", "/tmp/ray-1"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: node7: port {listener} is taken")


def test_dead_nodes_are_missing():
    wanted = {"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.3"}
    joined = [node("10.0.0.1"), node("10.0.0.2", alive=False)]
    assert missing_nodes(wanted, joined) == ["b", "c"]


def test_waiting_ends_when_all_are_there(capsys):
    answers = iter([[], [node("10.0.0.1")], [node("10.0.0.1"), node("10.0.0.2")]])
    wait_for_nodes({"a": "10.0.0.1", "b": "10.0.0.2"}, lambda: next(answers), timeout=60, every=0)
    assert capsys.readouterr().out.splitlines() == [
        "0 of 2 nodes have joined Ray, waiting for a, b",
        "1 of 2 nodes have joined Ray, waiting for b",
        "2 of 2 nodes have joined Ray",
    ]


def test_nodes_that_do_not_come_are_named():
    with pytest.raises(InputError, match=r"b \(10\.0\.0\.2\) did not join Ray within 0 s"):
        wait_for_nodes(
            {"a": "10.0.0.1", "b": "10.0.0.2"}, lambda: [node("10.0.0.1")], timeout=0, every=0
        )


def test_a_long_scratch_gets_a_short_name(tmp_path):
    scratch = tmp_path / ("x" * 100)
    short = Path(short_temp_dir(str(scratch / "ray-12345678")))
    assert short.name == "ray-12345678"
    assert short.parent.resolve() == scratch
    sockets = "session_2026-01-31_12-00-00_123456_1234567/sockets/dash_MetricsHead"
    assert len(str(short / sockets)) <= 107
    assert short_temp_dir("/tmp/ray-12345678") == "/tmp/ray-12345678"
