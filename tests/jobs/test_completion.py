"""What a shell completes, asked of the shell itself."""

import contextlib
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.completion import bash, fish, main, zsh
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


def test_fish_is_told_every_command_and_option() -> None:
    script = fish()
    for name, command in commands().items():
        assert f" -f -a {name} -d " in script
        for action in command.parser()._actions:
            for option in action.option_strings:
                assert not option.startswith("--") or f"-l {option[2:]}" in script


needs_fish = pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
needs_zsh = pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")


@needs_fish
@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("lensfeed nig", ["nightly"]),
        ("lensfeed --", ["--help", "--version"]),
        ("lensfeed nightly --re", ["--retry-failed"]),
        ("lensfeed calibrate_policy --ta", ["--target-miss-rate"]),
        ("lensfeed nightly --set crawl.max_b", ["crawl.max_backoff_s=", "crawl.max_bytes="]),
        ("lensfeed nightly --set=crawl.max_b", ["--set=crawl.max_backoff_s=", "--set=crawl.max_bytes="]),
        ("lensfeed nightly --log-format ", ["json", "text"]),
        ("lensfeed review ex", ["export"]),
        ("lensfeed review export --in", ["--into"]),
        ("lensfeed nightly --profile conf/prod", ["conf/production.yaml"]),
        ("lensfeed nonsense --", []),
    ],
)
def test_fish_completes_commands_options_values_settings_and_files(
    line: str, completed: list[str], tmp_path: Path
) -> None:
    script = tmp_path / "lensfeed.fish"
    script.write_text(fish())
    ran = subprocess.run(
        ["fish", "--no-config", "-c", f"source '{script}'; complete -C '{line}'"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=os.environ | {"HOME": str(tmp_path)},
    )
    assert ran.stderr == ""
    assert [one.split("\t")[0] for one in ran.stdout.splitlines()] == completed


class Shell:
    """A shell that somebody types into."""

    def __init__(self, command: list[str], setup: list[str], home: Path) -> None:
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.execvpe(command[0], command, os.environ | {"HOME": str(home), "TERM": "dumb"})
        for line in setup:
            self.type(f"{line}\n")
        self.type("lensfeed started\n")
        self.screen_until("<started>ready> ")

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self.terminal, keys.encode())

    def screen_until(self, text: str) -> str:
        """What has come on the screen since the last look, once the text is there; control characters are left out."""
        shown, deadline = "", time.monotonic() + 30
        while text not in shown and time.monotonic() < deadline:
            if select.select([self.terminal], [], [], 0.1)[0]:
                shown += "".join(c for c in os.read(self.terminal, 65536).decode() if c.isprintable())
        assert text in shown
        return shown

    def close(self) -> None:
        """It is gone."""
        with contextlib.suppress(OSError):
            self.type("exit\n")
        os.close(self.terminal)
        os.waitpid(self.pid, 0)


@pytest.fixture(scope="module")
def typed_zsh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    home = tmp_path_factory.mktemp("zsh")
    (home / "lensfeed.zsh").write_text(zsh())
    setup = [
        "PS1='re''ady> '; unsetopt prompt_sp; autoload -Uz compinit; compinit -u -D",
        f"source '{home}/lensfeed.zsh'; lensfeed() {{ print -r -- \"<${{(j:|:)@}}>\" }}",
    ]
    shell = Shell(["zsh", "-f", "-i"], setup, home)
    yield shell
    shell.close()


@pytest.fixture(
    scope="module", params=["", "COMP_WORDBREAKS=${COMP_WORDBREAKS//=}"], ids=["as it comes", "no break at ="]
)
def typed_bash(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Shell]:
    home = tmp_path_factory.mktemp("bash")
    (home / "lensfeed.bash").write_text(bash())
    settings = {
        "enable-bracketed-paste": "off",
        "show-all-if-ambiguous": "on",
        "completion-query-items": "0",
        "page-completions": "off",
    }
    (home / ".inputrc").write_text("".join(f"set {name} {value}\n" for name, value in settings.items()))
    setup = [
        f"PS1='re''ady> '; {request.param}",
        f"source '{home}/lensfeed.bash'; lensfeed() {{ local IFS='|'; echo \"<$*>\"; }}",
    ]
    shell = Shell(["bash", "--noprofile", "--norc", "-i"], setup, home)
    yield shell
    shell.close()


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("lensfeed nig", "<nightly|...>"),
        ("lensfeed nightly --re", "<nightly|--retry-failed|...>"),
        ("lensfeed nightly --set crawl.max_by", "<nightly|--set|crawl.max_bytes=...>"),
        ("lensfeed nightly --set crawl.max_b", "crawl.max_backoff_s=  crawl.max_bytes="),
        ("lensfeed nightly --set=crawl.max_by", "<nightly|--set=crawl.max_bytes=...>"),
        ("lensfeed nightly --set=crawl.max_b", "crawl.max_bytes="),
        ("lensfeed nightly --set=", "warehouse="),
        ("lensfeed nightly --set=run.lease_w", "<nightly|--set=run.lease_wait_s=...>"),
        ("lensfeed nightly --set crawl.max_bytes=", "<nightly|--set|crawl.max_bytes=...>"),
        ("lensfeed nightly --log-format=j", "<nightly|--log-format=json|...>"),
        ("lensfeed nightly --log-format=", "json  "),
        ("lensfeed review ex", "<review|export|...>"),
        ("lensfeed nightly --profile conf/prod", "<nightly|--profile|conf/production.yaml|...>"),
        ("lensfeed nonsense --", "<nonsense|--...>"),
    ],
)
def test_bash_completes_what_is_typed(typed_bash: Shell, line: str, completed: str) -> None:
    typed_bash.type(f"{line}\t...\n")
    shown = typed_bash.screen_until(">ready> ")
    assert completed in shown
    assert "not found" not in shown


@needs_zsh
@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("lensfeed nig", "<nightly|...>"),
        ("lensfeed --v", "<--version|...>"),
        ("lensfeed nightly --re", "<nightly|--retry-failed|...>"),
        ("lensfeed calibrate_policy --ta", "<calibrate_policy|--target-miss-rate|...>"),
        ("lensfeed nightly --set crawl.max_by", "<nightly|--set|crawl.max_bytes=...>"),
        ("lensfeed nightly --set crawl.max_b", "crawl.max_backoff_s=  crawl.max_bytes="),
        ("lensfeed nightly --set=crawl.max_by", "<nightly|--set=crawl.max_bytes=...>"),
        ("lensfeed nightly --set=crawl.max_b", "crawl.max_backoff_s=  crawl.max_bytes="),
        ("lensfeed nightly --log-format=j", "<nightly|--log-format=json|...>"),
        ("lensfeed nightly --profile=conf/prod", "<nightly|--profile=conf/production.yaml|...>"),
        ("lensfeed nightly --log-format ", "json  text"),
        ("lensfeed review ex", "<review|export|...>"),
        ("lensfeed review export --in", "<review|export|--into|...>"),
        ("lensfeed nightly --profile conf/prod", "<nightly|--profile|conf/production.yaml|...>"),
        ("lensfeed nonsense --", "<nonsense|--...>"),
    ],
)
def test_zsh_completes_commands_options_values_settings_and_files(typed_zsh: Shell, line: str, completed: str) -> None:
    typed_zsh.type(f"{line}\t...\n")
    shown = typed_zsh.screen_until(">ready> ")
    assert completed in shown
    assert "not found" not in shown


def test_every_shell_has_its_script(capsys: pytest.CaptureFixture[str]) -> None:
    for shell, script in {"bash": bash(), "zsh": zsh(), "fish": fish()}.items():
        assert main([shell]) == 0
        assert capsys.readouterr().out == script
        assert f"made by `lensfeed completion {shell}`" in script


def test_a_shell_that_is_not_known_is_exit_code_2() -> None:
    ran = subprocess.run([sys.executable, "-m", "jobs.completion", "tcsh"], cwd=ROOT, capture_output=True, check=False)
    assert ran.returncode == 2
