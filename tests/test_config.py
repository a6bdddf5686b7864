"""Configuration: what is said becomes a fleet, or one clear error."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hybrid_compute import HybridExecutor, ProcessExecutor, RemoteExecutor, ThreadExecutor
from hybrid_compute._config_keys import keys_of
from hybrid_compute.breaker import Breaker
from hybrid_compute.config import Config, read_config
from hybrid_compute.errors import ConfigurationError, UnknownExecutorError
from hybrid_compute.executors._named import executor_maker, makers_called
from hybrid_compute.policy import Budget, Price
from hybrid_compute.policy._named import policy_maker, policy_names

SECRET = "tiger-tiger-burning-bright"
REFERENCE = (Path(__file__).parents[1] / "docs" / "reference.rst").read_text()

FULL = """
[executor]
max_workers = 3
max_processes = 2
[executors.gpu]
url = "wss://gpu.example.com/ws"
token = "env:GPU"
tls_cert = ["chain.pem", "key.pem"]
headers = {X-Team = "blue"}
tasks = ["a", "b"]
breaker = {most = 3}
[executors.near]
type = "remote"
url = "http://127.0.0.1:1/compute"
token = "file:/nowhere/token"
[executors.process]
max_workers = 1
idle_timeout = 3
[executors]
extra = "thread"
far = "ws://127.0.0.1:1/ws"
[prices.gpu]
per_call = 0.5
[policy]
name = "budget"
limit = 3
per = "day"
policy = {name = "rules", default = "process", rules = [
    {tagged = "gpu", to = ["gpu", "process"]},
    {tagged = "x", named = "resize*", to = "thread"}]}
[serve]
port = 1
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "hybrid.toml"
    path.write_text(FULL)
    return path


def make(source=None, _given=None, **environ):
    return HybridExecutor.from_config(source, environ=environ, **(_given or {}))


def test_a_file_describes_a_whole_fleet_and_its_policy(path):
    with make(path) as ex:
        fleet = ex._fleet
        kinds = {name: type(each) for name, each in fleet.items()}
        assert kinds["gpu"] is kinds["near"] is kinds["far"] is RemoteExecutor
        assert kinds["process"] is ProcessExecutor
        assert kinds["extra"] is ThreadExecutor
        assert (fleet["thread"].workers, fleet["process"].workers) == (3, 1)
        assert [fleet[name].name for name in ("gpu", "near", "far")] == ["gpu", "near", "far"]
        assert fleet["gpu"].price == Price(per_call=0.5)
        assert fleet["gpu"].breaker._most == 3
        assert fleet["gpu"]._access._tls_cert == ("chain.pem", "key.pem")
        assert fleet["near"]._access._token == Path("/nowhere/token")
        assert isinstance(ex._policy, Budget)
        assert repr(ex._policy) == (
            "Budget(Rules(when(tagged('gpu'), 'gpu', 'process'), "
            "when((tagged('x') & named('resize*')), 'thread'), default=('process',)), 3, per='day')"
        )


def test_the_environment_counts_for_more_than_the_file_and_the_code_for_more_than_both(path):
    environ = {
        "HYBRID_COMPUTE_CONFIG": str(path),
        "HYBRID_COMPUTE__EXECUTOR__MAX_WORKERS": "5",
        "HYBRID_COMPUTE__EXECUTORS__GPU__URL": "ws://127.0.0.1:2/ws",
        "HYBRID_COMPUTE__EXECUTORS__GPU__TASKS": "x, y",
        "HYBRID_COMPUTE__EXECUTORS__GPU__BREAKER": "{most = 7}",
        "HYBRID_COMPUTE__POLICY": "least-loaded",
        "HYBRID_COMPUTE__PRICES__NEAR__PER_CALL": "0.25",
    }
    mine = ThreadExecutor(1)
    with make(None, {"max_processes": 7, "executors": {"far": mine}}, **environ) as ex:
        fleet = ex._fleet
        assert fleet["thread"].workers == 5
        assert str(fleet["gpu"]._access) == "ws://127.0.0.1:2/ws"
        assert fleet["gpu"]._names._given == {"x", "y"}
        assert fleet["gpu"].breaker._most == 7
        assert fleet["far"] is mine
        assert repr(ex._policy) == "LeastLoaded()"
        assert fleet["near"].price == Price(per_call=0.25)


def test_a_variable_means_the_name_that_the_file_has_in_other_letters():
    table = {"executors": {"My-GPU": {"url": "ws://127.0.0.1:1/ws"}}}
    with make(table, HYBRID_COMPUTE__EXECUTORS__MY_GPU__MAX_WORKERS="2") as ex:
        assert ex._fleet["My-GPU"].workers == 2


def test_a_variable_adds_to_what_the_file_says_in_one_word():
    environ = {"HYBRID_COMPUTE__POLICY__MOVE": "all"}
    with make({"policy": "least-loaded"}, **environ) as ex:
        assert ex._policy.moves_plain


def test_nothing_said_is_the_default_executor():
    with make() as ex:
        assert [*ex._fleet] == ["inline", "thread", "process", "lane"]
        assert ex.submit(pow, 2, 3).result() == 8


def test_a_mapping_is_not_changed_by_what_is_made_of_it():
    table = {"policy": "least-loaded", "executors": {"x": "thread"}}
    make(table, HYBRID_COMPUTE__EXECUTORS__X__MAX_WORKERS="1").shutdown()
    assert table == {"policy": "least-loaded", "executors": {"x": "thread"}}


GPU = "the configuration: executors.gpu"
WRONG = [
    ({"exector": {}}, ["exector is unknown", "did you mean 'executor'?"]),
    ({"executor": 3}, ["executor is 3", "[executor]"]),
    ({"executor": {"max_worker": 1}}, ["executor.max_worker", "did you mean 'max_workers'?"]),
    ({"executor": {"max_workers": "x"}}, ["executor.max_workers is 'x': give a whole number"]),
    ({"executor": {"max_workers": True}}, ["executor.max_workers is True"]),
    ({"executor": {"max_workers": 0}}, ["executor: max_workers must be greater than 0"]),
    ({"executor": {"initializer": "f"}}, ["executor.initializer", "initializer= in code"]),
    ({"executor": {"carry": ["x"]}}, ["executor.carry", "carry= in code"]),
    ({"executor": {"policy": "x"}}, ["executor.policy", "[policy]"]),
    ({"executor": {"remote": 3}}, ["remote=3 is neither a URL"]),
    ({"executors": {"gpu": 3}}, [f"{GPU} is 3", "[executors.gpu]"]),
    ({"executors": {"gpu": {"type": "remot"}}}, [f"{GPU}.type", "did you mean 'remote'?"]),
    ({"executors": {"gpu": {"max_workers": 1}}}, [f"{GPU}.type is missing", "'thread'"]),
    ({"executors": {"gpu": {"type": 1}}}, [f"{GPU}.type is 1", "'thread'"]),
    ({"executors": {"gpu": {"type": "remote"}}}, [f"{GPU}.url is missing", "give a text"]),
    ({"executors": {"gpu": "x://y"}}, [f"{GPU}: url='x://y'", "wss://host/ws"]),
    ({"executors": {"gpu": {"url": "wss://h", "timeout": "1"}}}, [f"{GPU}.timeout is '1'"]),
    ({"executors": {"gpu": {"url": "wss://h", "timeout": -1}}}, [f"{GPU}: timeout=-1"]),
    ({"executors": {"gpu": {"url": "wss://h", "breaker": {"mst": 1}}}}, [f"{GPU}.breaker.mst"]),
    ({"executors": {"gpu": {"url": "wss://h", "tasks": "a"}}}, [f"{GPU}.tasks is 'a'", "a list"]),
    ({"policy": "adaptve"}, ["policy.name", "did you mean 'adaptive'?"]),
    ({"policy": {"move": "all"}}, ["policy.name is missing"]),
    ({"policy": "always"}, ["policy.executor is missing", "Always"]),
    ({"policy": {"name": "prefer", "names": ["thread"], "move": "a"}}, ["policy: ", "move='a'"]),
    ({"policy": {"name": "budget", "limit": 1, "policy": "x"}}, ["policy.policy.name"]),
    ({"policy": {"name": "rules", "default": "thread", "rules": [{"to": "x"}]}}, ["rules.1"]),
    ({"prices": {"thread": {"per_cal": 1}}}, ["prices.thread.per_cal", "'per_call'"]),
    ({"prices": {"thread": {"per_call": -1}}}, ["prices.thread: ", "per_call=-1"]),
    ({3: {}}, ["3 is no key"]),
]


@pytest.mark.parametrize(("table", "words"), WRONG, ids=lambda value: str(value)[:60])
def test_a_mistake_is_told_with_its_key_what_was_found_and_what_to_do(table, words):
    with pytest.raises(ConfigurationError) as info:
        make(table)
    assert [word for word in words if word not in str(info.value)] == []


def test_a_name_that_the_fleet_does_not_have_is_told_as_in_code():
    with pytest.raises(UnknownExecutorError, match=r"'gpu'"):
        make({"policy": {"name": "always", "executor": "gpu"}})


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("EXECUTOR__MAX_WORKERS", "x", ["(executor.max_workers) is 'x': give a whole number"]),
        ("EXECTOR__MAX_WORKERS", "1", ["'exector' is unknown; did you mean 'executor'?"]),
        ("EXECUTOR__", "1", ["TABLE__KEY"]),
        ("POLICY", "adaptve", ["(policy.name)", "'adaptive'"]),
    ],
)
def test_a_mistake_in_the_environment_is_told_with_its_variable(variable, value, words):
    name = f"HYBRID_COMPUTE__{variable}"
    with pytest.raises(ConfigurationError) as info:
        make({}, **{name: value})
    assert [word for word in [name, *words] if word not in str(info.value)] == []


SECRETS = [
    {"token": SECRET},
    {"signing_key": SECRET},
    {"tokn": SECRET},
    {"token": [SECRET]},
    {"headers": {"X": [SECRET]}},
    {"headers": {"Authorization": SECRET}, "url": "ws://example.com/ws"},
    {"token": "env:TIGER", "url": "ws://example.com/ws"},
    {"url": f"wss://user:{SECRET}@example.com/ws"},
]


@pytest.mark.parametrize("said", SECRETS, ids=str)
def test_no_message_tells_a_secret(said):
    with pytest.raises(ConfigurationError) as info:
        make({"executors": {"gpu": {"url": "wss://h/ws", **said}}}, TIGER=SECRET)
    error = info.value
    while error is not None:
        assert SECRET not in f"{error} {error!r}"
        error = error.__cause__


def test_a_secret_in_the_environment_is_not_told_either():
    name = "HYBRID_COMPUTE__EXECUTORS__GPU__TOKEN"
    with pytest.raises(ConfigurationError, match=name) as info:
        make({"executors": {"gpu": "wss://h/ws"}}, **{name: SECRET})
    assert SECRET not in str(info.value)


def test_a_file_that_cannot_be_read_is_told_with_its_name(tmp_path):
    with pytest.raises(ConfigurationError, match=r"missing.toml.*HYBRID_COMPUTE_CONFIG"):
        make(tmp_path / "missing.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text(f'token = "{SECRET}')
    with pytest.raises(ConfigurationError, match=r"bad.toml is no TOML: Unterminated") as info:
        make(bad)
    assert SECRET not in str(info.value)
    bad.write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match=r"bad.toml is no TOML"):
        make(bad)
    with pytest.raises(ConfigurationError, match=r"cannot be read"):
        make(3.5)


def test_executors_that_were_made_are_ended_when_a_later_key_is_wrong(monkeypatch):
    ended = []
    monkeypatch.setattr(ThreadExecutor, "shutdown", lambda self, **_: ended.append(self.name))
    with pytest.raises(ConfigurationError):
        make({"executors": {"mine": "thread", "gpu": 3, "other": "thread"}, "policy": "x"})
    with pytest.raises(ConfigurationError):
        make({"executors": {"mine": "thread"}, "executor": {"max_workers": -1}})
    assert ended == ["mine"]


def test_what_is_said_of_commands_only_says_nothing_of_an_executor():
    assert not read_config({"serve": {"port": 1}}, environ={})
    assert read_config({"policy": "adaptive"}, environ={})
    assert isinstance(read_config({}, environ={}), Config)


def listed(heading: str) -> list[str]:
    found = re.search(rf"^``{re.escape(heading)}``\n((?:   .+\n)+)", REFERENCE, re.MULTILINE)
    return re.findall(r"``(\w+)``", found[1])


def keys(maker, *without) -> list[str]:
    return [name for name, each in keys_of(maker, without=without).of.items() if each.kinds]


def test_the_reference_has_all_keys():
    elsewhere = ("policy", "prices", "executors", "carry")
    assert listed("[executor]") == keys(HybridExecutor, *elsewhere)
    for name in makers_called():
        assert listed(f'type = "{name}"') == keys(executor_maker(name), "name")
    for name in policy_names():
        theirs = [{"name": "executor"}.get(each, each) for each in keys(policy_maker(name))]
        assert listed(f'name = "{name}"') == theirs
    assert listed("[prices.NAME]") == keys(Price)
    assert listed("[executors.NAME.breaker]") == keys(Breaker)
