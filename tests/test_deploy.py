"""deploy/: its files can be read, agree with each other, and say what the command line knows."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hybrid_compute import HybridExecutor
from hybrid_compute._commands import main
from hybrid_compute._config_option import _defaults
from hybrid_compute.config import PREFIX, read_config
from hybrid_compute.server import Limits

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
TOML = DEPLOY / "hybrid.toml"
SERVE = main.get_command(None, "serve")
PORT = 8760


def parsed(args: list[str]) -> dict[str, object]:
    """Parse the arguments of `hybrid-compute serve`; an option that it does not have raises."""
    context = SERVE.context_class(SERVE, info_name="serve", resilient_parsing=True)
    values, left, _ = SERVE.make_parser(context).parse_args(list(args))
    assert left == []
    options = {each.name for each in SERVE.params if each.param_type_name == "option"}
    return {name: value for name, value in values.items() if name in options}


def said(environ: dict[str, str]) -> dict[str, object]:
    """Return what the file and the environment say of the command together."""
    return _defaults(SERVE, read_config(TOML, environ=environ), "serve", {"target": "tasks"})


def unit() -> configparser.ConfigParser:
    found = configparser.ConfigParser(strict=True, interpolation=None, delimiters=("=",))
    found.optionxform = str
    found.read_string((DEPLOY / "hybrid-compute.service").read_text())
    return found


def compose() -> dict:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["compute"]


def objects() -> dict[str, dict]:
    found = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    return {each["kind"]: each for each in found}


def pod() -> dict:
    return objects()["Deployment"]["spec"]["template"]["spec"]


def dockerfile() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", "", (DEPLOY / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(" ", 1)) for line in lines]


def test_the_configuration_describes_a_server_and_an_executor():
    found = said({})
    assert (found["target"], found["port"]) == ("tasks:TASKS", PORT)
    with HybridExecutor.from_config(TOML, environ={}) as ex:
        assert ex._max_workers == 8


def test_the_command_of_the_unit_has_only_options_that_there_are():
    words = shlex.split(unit()["Service"]["ExecStart"])
    assert words[0].endswith("/bin/hybrid-compute")
    assert words[1] == "serve"
    assert set(parsed(words[2:])) == {"config", "remember"}


def test_the_unit_is_one_that_systemd_takes(tmp_path):
    tool = shutil.which("systemd-analyze")
    if tool is None:  # its syntax was read above
        return
    text = (DEPLOY / "hybrid-compute.service").read_text()
    copy = tmp_path / "hybrid-compute.service"
    copy.write_text(text.replace("/opt/hybrid-compute/bin/hybrid-compute", sys.executable))
    done = subprocess.run(
        [tool, "verify", str(copy)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_image_is_built_of_what_is_in_the_checkout_and_starts_the_server():
    steps = dockerfile()
    for word, rest in steps:
        if word == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
    last = dict(steps)
    assert json.loads(last["ENTRYPOINT"]) == ["hybrid-compute", "serve"]
    parsed(json.loads(last["CMD"]))
    assert last["USER"] != "root"
    assert (last["EXPOSE"], last["STOPSIGNAL"]) == (str(PORT), "SIGTERM")
    extras = re.findall(r'"(?:\.|hybrid-compute)\[(\w+)\]"', "\n".join(rest for _, rest in steps))
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert extras == ["server", "server"]
    assert "server" in config["options.extras_require"]


def test_the_compose_file_has_only_options_and_variables_that_there_are():
    service = compose()
    options = parsed(service["command"])
    assert {"host", "tls_cert", "tls_key", "remember"} == set(options)
    found = said({k: v for k, v in service["environment"].items() if k.startswith(PREFIX)})
    assert found["hosts"] == ("compute.example.com", "localhost")
    assert service["ports"] == [f"{PORT}:{PORT}"]
    assert (DEPLOY / service["build"]["context"]).resolve() == ROOT
    assert (ROOT / service["build"]["dockerfile"]).exists()
    check = service["healthcheck"]["test"]
    compile(check[3], "healthcheck", "exec")
    assert f"https://127.0.0.1:{PORT}/healthz" in check[3]


def test_the_kubernetes_objects_have_only_options_and_variables_that_there_are():
    (container,) = pod()["containers"]
    assert parsed(container["args"]) == {"host": "0.0.0.0"}
    found = said({e["name"]: e["value"] for e in container["env"] if "value" in e})
    assert (found["insecure"], found["hosts"]) == (2, ("compute.example.com", "compute"))
    assert container["env"][0]["name"] == "HYBRID_COMPUTE_TOKEN"
    assert container["ports"][0]["containerPort"] == PORT


def test_the_kubernetes_objects_mean_each_other():
    found = objects()
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert found["Service"]["spec"]["selector"] == labels
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert found[kind]["spec"]["selector"]["matchLabels"] == labels
    target = found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", "compute")
    (container,) = pod()["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/healthz"
    assert "httpGet" not in container["livenessProbe"]  # a server that drains is not to be killed


def test_each_gives_a_server_that_is_told_to_end_the_time_that_it_takes():
    from hybrid_compute._serve import _MARGIN

    grace = said({})["grace"]
    assert grace == Limits().grace
    most = 2 * grace + _MARGIN
    assert float(unit()["Service"]["TimeoutStopSec"]) > most
    assert float(compose()["stop_grace_period"].removesuffix("s")) > most
    assert pod()["terminationGracePeriodSeconds"] > most
    assert unit()["Service"]["KillMode"] == "mixed"


PAGES = [*(ROOT / "docs").rglob("*.rst"), ROOT / "README.rst", ROOT / "SECURITY.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_in_the_docs_have_only_options_that_there_are(page):
    for line in re.findall(r"^.*\bhybrid-compute serve .*$", page.read_text(), re.MULTILINE):
        command = re.split(r"hybrid-compute serve ", line)[1]
        options = re.findall(r"(?<![\w-])--[\w-]+", command.partition("``")[0])
        known = {name for each in SERVE.params for name in each.opts} | {"--help"}
        assert [each for each in options if each not in known] == [], line
