"""The one command: what it lists, what it says to those who misspell, and what it costs to ask."""

import argparse
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest
from setuptools import Distribution

from jobs import __main__ as lensfeed
from jobs.config.catalogue import GROUPS, commands, grouped
from jobs.config.command import JobParser

ROOT = Path(__file__).parents[2]


def test_every_entry_point_is_a_command_with_a_line() -> None:
    modules = {path.stem.replace("_", "-") for path in (ROOT / "jobs").glob("[a-z]*.py")}
    assert modules <= set(commands())
    help_text = lensfeed.help_text()
    for name, command in commands().items():
        assert command.summary.endswith("."), f"{command.module}: its docstring begins with no sentence"
        assert f"\n  {name} " in help_text


def test_the_groups_name_commands_that_there_are_and_leave_none_out() -> None:
    named = [name for names in GROUPS.values() for name in names]
    assert set(named) <= set(commands())
    listed = [command.name for members in grouped().values() for command in members]
    assert sorted(listed) == sorted(commands())


@pytest.mark.parametrize("name", list(commands()))
def test_every_command_has_a_parser_of_its_own_that_help_can_print(name: str) -> None:
    parser = commands()[name].parser()
    assert isinstance(parser, JobParser), "made by jobs.config.command.job_parser"
    assert commands()[name].documentation.split("\n")[0] in parser.format_help()


def test_asking_for_help_loads_no_spark_and_no_model_library() -> None:
    script = "import sys; from jobs.__main__ import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in ran.stderr.split()}
    assert not loaded & {"pyspark", "py4j", "pydantic", "numpy", "torch", "yaml"}
    assert "nightly" in ran.stdout


def test_the_console_script_is_this_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    distributions: list[Distribution] = []
    monkeypatch.setattr("setuptools.setup", lambda **given: distributions.append(Distribution(given)))
    exec(compile((ROOT / "setup.py").read_text(), str(ROOT / "setup.py"), "exec"), {"__file__": str(ROOT / "setup.py")})
    name, _, value = distributions[0].entry_points["console_scripts"][0].partition(" = ")
    assert (name, EntryPoint(name, value, "console_scripts").load()) == ("lensfeed", lensfeed.main)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nigthly", "--date", "2026-01-31"], "unknown command nigthly; did you mean nightly?"),
        (["calibrate_polcy"], "unknown command calibrate_polcy; did you mean calibrate-policy?"),
        (["fly"], "unknown command fly; lensfeed --help lists the commands"),
        (["--vresion"], "unknown option --vresion; lensfeed --help lists the commands"),
        ([], "expected a command, one of "),
        ([""], "expected a command, one of "),
    ],
)
def test_what_is_no_command_is_exit_code_2_and_says_what_may_have_been_meant(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lensfeed.main(arguments) == 2
    assert says in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--dat", "2026-01-31"], "unknown option --dat; did you mean --date?"),
        (["--date", "2026-01-31", "--profile=p", "--forse"], "unknown option --forse; did you mean --force?"),
        (["--quickly"], "unknown option --quickly; known here: --help, "),
        (["--date", "2026-01-31"], "the following arguments are required: --profile"),
    ],
)
def test_a_misspelt_option_is_told_before_the_one_that_is_missing_for_it(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        lensfeed.main(["nightly", *arguments])
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {says}")


def test_options_of_an_action_are_looked_for_in_that_action(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        lensfeed.main(["review", "export", "--profile", "p", "--itno", "f.csv"])
    assert capsys.readouterr().err.splitlines()[-1] == "error: unknown option --itno; did you mean --into?"


def test_what_follows_two_dashes_is_no_option() -> None:
    parser = JobParser()
    parser.add_argument("file")
    assert parser.parse_args(["--", "--odd-name"]) == argparse.Namespace(file="--odd-name")


def test_a_command_whose_libraries_are_missing_names_them_and_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without_spark(name: str) -> ModuleType:
        raise ModuleNotFoundError(f"No module named {name!r}", name="pyspark.sql")

    monkeypatch.setattr("importlib.import_module", without_spark)
    assert lensfeed.main(["digest", "--profile", "p"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: digest needs pyspark, which is not installed")
    assert line.endswith("pip install 'lensfeed[job]'")
