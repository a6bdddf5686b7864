"""--config: a command takes its options from a file and the environment."""

from __future__ import annotations

import re

import click
import pytest
from click.testing import CliRunner

from hybrid_compute import RemoteExecutor, remote_task
from hybrid_compute._commands import main
from hybrid_compute._config_option import _name, config_of, with_config
from tests.server.conftest import ROOT, SECRET, Served
from tests.test_config import listed

ARGUMENTS = {"serve": {"target": "tasks"}, "demo": {}, "replay": {"path": "log"}}


@click.command()
@click.argument("what")
@with_config("serve", {"what": "tasks"})
@click.option("--port", type=click.IntRange(0, 9), default=1)
@click.option("--seconds", type=float, default=1.0)
@click.option("--allow-host", "hosts", multiple=True)
@click.option("--no-token", is_flag=True)
@click.option("--insecure", count=True)
@click.pass_context
def show(ctx, **options):
    click.echo(dict(sorted(options.items())))
    click.echo(bool(config_of(ctx)))


def run(folder, text="", *options, **environ):
    file = folder / "c.toml"
    file.write_text(text)
    clean = {"HYBRID_COMPUTE_CONFIG": None, **environ}
    result = CliRunner().invoke(show, ["--config", str(file), *options], env=clean)
    return result.exit_code, result.output


def test_options_come_from_the_file(tmp_path):
    status, said = run(
        tmp_path,
        '[serve]\ntasks = "m:T"\nport = 3\nseconds = 2\nallow_host = ["a", "b"]\n'
        "no_token = true\ninsecure = 2\n[policy]\nname = 'adaptive'\n",
    )
    assert (status, said) == (
        0,
        (
            "{'hosts': ('a', 'b'), 'insecure': 2, 'no_token': True, 'port': 3, 'seconds': 2.0, "
            "'what': 'm:T'}\nTrue\n"
        ),
    )


def test_the_environment_counts_for_more_and_the_command_line_for_most(tmp_path):
    text = '[serve]\ntasks = "m:T"\nport = 3\nseconds = 2\n'
    environ = {
        "HYBRID_COMPUTE__SERVE__PORT": "4",
        "HYBRID_COMPUTE__SERVE__SECONDS": "2.5",
        "HYBRID_COMPUTE__SERVE__ALLOW_HOST": "a, b",
        "HYBRID_COMPUTE__SERVE__NO_TOKEN": "true",
    }
    _, said = run(tmp_path, text, "n:T", "--port", "5", **environ)
    assert said == (
        "{'hosts': ('a', 'b'), 'insecure': 0, 'no_token': True, 'port': 5, 'seconds': 2.5, "
        "'what': 'n:T'}\nFalse\n"
    )


def test_a_variable_names_the_file_where_no_option_does(tmp_path):
    (tmp_path / "c.toml").write_text('[serve]\ntasks = "m:T"\n')
    environ = {"HYBRID_COMPUTE_CONFIG": str(tmp_path / "c.toml")}
    result = CliRunner().invoke(show, [], env=environ)
    assert "'what': 'm:T'" in result.output


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[serve]\nprt = 1", ["c.toml: serve.prt is unknown; did you mean 'port'?"]),
        ("[serve]\nport = 'x'", ["c.toml: serve.port is 'x': give a whole number"]),
        ("[serve]\nport = 10", ["c.toml: serve.port is 10", "range"]),
        ("[serv]", ["serv is unknown; did you mean 'serve'?"]),
        ("[serve", ["c.toml is no TOML"]),
    ],
)
def test_a_mistake_ends_with_status_2_and_names_the_key(tmp_path, text, words):
    status, said = run(tmp_path, text, "m:T")
    assert status == 2
    assert [word for word in words if word not in " ".join(said.split())] == []


def test_the_argument_is_still_missed_if_nobody_gives_it(tmp_path):
    status, said = run(tmp_path)
    assert status == 2
    assert "Missing argument 'WHAT'" in said


def test_the_reference_has_the_keys_of_all_commands():
    for command, arguments in ARGUMENTS.items():
        params = main.get_command(None, command).params
        names = [_name(each, arguments) for each in params if each.expose_value]
        assert listed(f"[{command}]") == [name for name in names if name]


def test_a_server_runs_its_tasks_on_the_executor_that_the_file_describes(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import os\n\ndef pid() -> int:\n    return os.getpid()\n\n"
        "def secrets() -> list:\n    return [each for each in os.environ if 'TOKEN' in each]\n\n"
        "TASKS = {'pid': pid, 'secrets': secrets, 'len': len}\n"
    )
    (tmp_path / "c.toml").write_text(
        '[serve]\ntasks = "mine:TASKS"\nmax_body = 1000\n'
        '[policy]\nname = "always"\nexecutor = "thread"\n'
    )
    served = Served("--config", str(tmp_path / "c.toml"), PYTHONPATH=f"{ROOT}:{tmp_path}")
    try:
        with RemoteExecutor(f"ws://127.0.0.1:{served.port}/ws", token=SECRET) as ex:
            pid = ex.submit(remote_task("pid")).result(60)
            secrets = ex.submit(remote_task("secrets")).result(60)
            error = ex.submit(remote_task("len"), "x" * 2000).exception(60)
    finally:
        status = served.end()
    assert pid == served.process.pid  # no worker process
    assert secrets == []
    assert "the server takes 936" in str(error)
    assert (status, re.findall("left behind", served.said)) == (0, [])
