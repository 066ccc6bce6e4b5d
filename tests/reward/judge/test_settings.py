"""The judge's settings, and above all where responses may be sent."""

import pytest

from llm_client.server import check_address
from reward.judge.settings import JudgeSettings
from reward.settings import load_preset

LOCAL = [
    "http://127.0.0.1:8000/v1",
    "http://127.8.9.1/v1",  # the whole loopback network
    "http://localhost:8000/v1",
    "http://LOCALHOST:8000/v1",
    "https://[::1]:8000/v1",
]
ELSEWHERE = [
    "https://api.openai.com/v1",  # a hosted model
    "http://10.0.0.7:8000/v1",  # another node, even of a private network
    "http://192.168.1.2/v1",
    "http://gpu-node-3:8000/v1",  # a name
    "http://0.0.0.0:8000/v1",  # every interface
    "http://[::]/v1",
    "http://[::ffff:8.8.8.8]/v1",  # an old address in a new one
    "http://localhost.example.com/v1",  # only looks like it
    "http://127.0.0.1.nip.io/v1",
    "http://2130706433/v1",  # a number that some read as 127.0.0.1
    "http://127.1/v1",
]
MALFORMED = [
    "",
    "127.0.0.1:8000",  # no scheme
    "ftp://127.0.0.1/v1",
    "http:///v1",  # no host
    "http://127.0.0.1@example.com/v1",  # a user that looks like a host
    "http://user:password@127.0.0.1/v1",  # a key where it would be logged
    "http://127.0.0.1\\@example.com/v1",
    "http://127.0.0.1 .example.com/v1",
    "http://127.0.0.1%2eexample.com/v1",
    "http://127.0.0.1:99999/v1",
    "http://127.0.0.1:8000/v1?key=secret",
    "http://127.0.0.1/v1#x",
    "http://[::1/v1",
    "http://exämple.com/v1",
]


@pytest.mark.parametrize("address", LOCAL)
def test_this_machine_is_allowed(address) -> None:
    check_address(address, False, ())


@pytest.mark.parametrize("address", ELSEWHERE)
def test_any_other_needs_a_word(address) -> None:
    with pytest.raises(ValueError, match="data use agreement") as caught:
        check_address(address, False, ())
    assert "\n" not in str(caught.value)
    check_address(address, True, ())


@pytest.mark.parametrize("address", MALFORMED)
def test_what_is_no_address_is_never_allowed(address) -> None:
    with pytest.raises(ValueError, match=r"server\.base_url is"):
        check_address(address, True, ("example.com",))


@pytest.mark.parametrize(
    ("address", "host"),
    [("http://gpu-node-3:8000/v1", "GPU-node-3"), ("http://10.0.0.7/v1", "10.0.0.7")],
)
def test_a_named_host_is_allowed(address, host) -> None:
    check_address(address, False, (host,))


@pytest.mark.parametrize("host", ["gpu-node", "node-3", "10.0.0", "*", "gpu-node-3:8000"])
def test_a_part_of_a_name_is_not_the_host(host) -> None:
    with pytest.raises(ValueError, match="data use agreement"):
        check_address("http://gpu-node-3:8000/v1", False, (host,))


def test_an_address_elsewhere_is_refused_with_the_settings() -> None:
    with pytest.raises(ValueError, match="data use agreement"):
        JudgeSettings.from_kwargs({"base_url": "https://api.example.com/v1"})


def test_the_engines_router_needs_no_word() -> None:
    at = JudgeSettings.from_kwargs({}).at("10.0.0.7:4321")
    assert at.base_url == "http://10.0.0.7:4321/v1"


def test_an_address_of_ones_own_goes_before_the_router() -> None:
    settings = JudgeSettings.from_kwargs({"base_url": "http://localhost/v1"})
    assert settings.at("10.0.0.7:4321") is settings


def test_no_address_at_all_is_named() -> None:
    with pytest.raises(ValueError, match=r"judge\.base_url is not set"):
        JudgeSettings.from_kwargs({}).at(None)


WRONG = [
    ("base_url", 5),
    ("model", ""),
    ("api_key_env", "sk-abcdef"),  # the key itself
    ("api_key_env", 5),
    ("data_may_leave", "yes"),
    ("data_may_leave", 1),
    ("trusted_hosts", "host"),
    ("trusted_hosts", [1]),
    ("question_types", ["open", "essay"]),
    ("question_types", "open"),
    ("score_difference", 0),
    ("score_difference", float("nan")),
    ("reasoning", None),
    ("alignment", "no"),
    ("structured_output", "xml"),
    ("max_tokens", 0),
    ("max_tokens", 1.5),
    ("seed", "0"),
    ("extra_body", []),
    ("extra_body", {"model": "other"}),
    ("extra_body", {"x": float("nan")}),
    ("timeout_s", 0),
    ("timeout_s", True),
    ("max_concurrency", 0),
    ("attempts", 0),
    ("backoff_s", -1),
    ("backoff_max_s", float("inf")),
    ("breaker_failures", 0),
    ("breaker_cooldown_s", "30"),
    ("cache_dir", 5),
    ("max_failed_share", 1.5),
    ("failed_window", 0),
    ("url", "http://localhost"),  # an unknown key
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_a_wrong_value_names_its_key(key, value) -> None:
    with pytest.raises(ValueError, match=key) as caught:
        JudgeSettings.from_kwargs({key: value})
    assert "sk-abcdef" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_alignment_needs_the_reasoning() -> None:
    with pytest.raises(ValueError, match=r"judge\.reasoning"):
        JudgeSettings.from_kwargs({"alignment": True, "reasoning": False})


def test_the_preset_has_every_key_and_no_other() -> None:
    preset = load_preset("paper_judge")["judge"]
    assert set(preset) == set(JudgeSettings.model_fields)
    # What the preset says is what a shorter one gets.
    assert JudgeSettings.from_kwargs(preset) == JudgeSettings()


def test_the_containers_of_a_configuration_are_taken() -> None:
    from omegaconf import OmegaConf

    config = OmegaConf.create({"trusted_hosts": ["h"], "extra_body": {"a": {"b": [1]}}})
    settings = JudgeSettings.from_kwargs(config)
    assert settings.trusted_hosts == ("h",)
    assert settings.extra_body == '{"a": {"b": [1]}}'
    assert hash(settings) == hash(JudgeSettings.from_kwargs(config))


async def test_a_key_that_is_not_there_is_named(score, monkeypatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ValueError, match="NO_SUCH_KEY is not set"):
        await score("Effusion", judge={"api_key_env": "NO_SUCH_KEY"})
