"""What a shell completes, asked of the shell itself."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.completion import bash, fish, main
from jobs.config.catalogue import commands

ROOT = Path(__file__).parents[2]

_ASK = """
source /dev/stdin <<'SCRIPT'
{script}
SCRIPT
COMP_WORDS=({words}) COMP_CWORD={position}
_lensfeed 2>/dev/null
echo "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def script() -> str:
    return bash()


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["lensfeed", "nig"], ["nightly"]),
        (["lensfeed", "--v"], ["--version"]),
        (["lensfeed", "nightly", "--re"], ["--retry-failed"]),
        (["lensfeed", "calibrate_policy", "--ta"], ["--target-miss-rate"]),
        (["lensfeed", "nightly", "--set", "crawl.max_b"], ["crawl.max_backoff_s=", "crawl.max_bytes="]),
        (["lensfeed", "nightly", "--log-format", ""], ["text", "json"]),
        (["lensfeed", "review", "ex"], ["export"]),
        (["lensfeed", "review", "export", "--in"], ["--into"]),
        (["lensfeed", "nightly", "--profile", "conf/"], []),  # then by the names of files
        (["lensfeed", "nonsense", "--"], []),
    ],
)
def test_bash_completes_commands_options_values_and_settings(
    script: str, words: list[str], completed: list[str]
) -> None:
    asked = _ASK.format(script=script, words=" ".join(f"'{word}'" for word in words), position=len(words) - 1)
    ran = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == completed


def test_fish_is_told_every_command_and_option(tmp_path: Path) -> None:
    script = fish()
    for name, command in commands().items():
        assert f" -f -a {name} -d " in script
        for action in command.parser()._actions:
            for option in action.option_strings:
                assert not option.startswith("--") or f"-l {option[2:]}" in script
    if shutil.which("fish"):
        file = tmp_path / "lensfeed.fish"
        file.write_text(script)
        subprocess.run(["fish", "--no-execute", str(file)], check=True)


def test_zsh_takes_the_same_script_by_its_emulation(capsys: pytest.CaptureFixture[str], script: str) -> None:
    assert main(["zsh"]) == 0
    assert capsys.readouterr().out == f"autoload -U +X bashcompinit && bashcompinit\n{script}"


def test_a_shell_that_is_not_known_is_exit_code_2() -> None:
    ran = subprocess.run([sys.executable, "-m", "jobs.completion", "tcsh"], cwd=ROOT, capture_output=True, check=False)
    assert ran.returncode == 2
