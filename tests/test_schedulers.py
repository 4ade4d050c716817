"""What schedulers are given: the DAGs of conf/airflow_dag.py and the lines for cron say only what the jobs take.

Airflow is not installed. What is imported here in its place is a stand-in of a few lines that only remembers what it
was given: it shows what the file asks for, under the names that Airflow 2 and 3 have it by, and nothing of what Airflow
does with it.
"""

import ast
import re
import sys
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from jobs.config.profile import load
from tests.documented import ROOT, Line, problem

_CRON = re.compile(r"^(?:[\d*]+ ){5}(.*)$", re.MULTILINE)
_DATE = re.compile(r"\$\([^)]*\)")

FILE = ROOT / "conf/airflow_dag.py"
MODULES = {
    2: ("airflow", "airflow.models.param", "airflow.operators.bash"),
    3: ("airflow.sdk", "airflow.sdk", "airflow.providers.standard.operators.bash"),
}
"""Where Airflow 2 and 3 have DAG, Param and BashOperator."""


class Task:
    """A stand-in for BashOperator."""

    def __init__(self, *, task_id: str, bash_command: str) -> None:
        self.task_id, self.bash_command = task_id, bash_command
        self.after: list[str] = []
        assert Dag.open is not None
        Dag.open.tasks[task_id] = self

    def __rshift__(self, other: "Task") -> "Task":
        other.after.append(self.task_id)
        return other


class Dag:
    """A stand-in for DAG."""

    open: "Dag | None" = None

    def __init__(self, *, dag_id: str, **given: Any) -> None:
        self.dag_id, self.given = dag_id, given
        self.tasks: dict[str, Task] = {}

    def __enter__(self) -> "Dag":
        Dag.open = self
        return self

    def __exit__(self, *_: object) -> None:
        Dag.open = None


class Parameter:
    """A stand-in for Param."""

    def __init__(self, default: str, **schema: str) -> None:
        self.default, self.schema = default, schema


class Cron:
    """A stand-in for CronDataIntervalTimetable."""

    def __init__(self, cron: str, timezone: str) -> None:
        self.cron, self.timezone = cron, timezone


def built(monkeypatch: pytest.MonkeyPatch, release: int) -> dict[str, Dag]:
    """The DAGs that the file makes with a stand-in for that release of Airflow."""
    places = dict(zip(("DAG", "Param", "BashOperator"), MODULES[release], strict=True))
    held = {"DAG": Dag, "Param": Parameter, "BashOperator": Task, "CronDataIntervalTimetable": Cron}
    places["CronDataIntervalTimetable"] = "airflow.timetables.interval"
    modules: dict[str, ModuleType] = {}
    for name, place in places.items():
        parts = place.split(".")
        for end in range(1, len(parts) + 1):
            modules.setdefault(".".join(parts[:end]), ModuleType(".".join(parts[:end])))
        setattr(modules[place], name, held[name])
    for place, module in modules.items():
        module.__path__ = []
        monkeypatch.setitem(sys.modules, place, module)
    # Compiled here, not imported: a __pycache__ in conf/ would go into the wheel.
    made: dict[str, Any] = {"__name__": "airflow_dag"}
    exec(compile(FILE.read_text(encoding="utf-8"), str(FILE), "exec"), made)
    return {dag.dag_id: dag for dag in made.values() if isinstance(dag, Dag)}


def rendered(dag: Dag, task: Task) -> str:
    """The command as Airflow's templates would have it, for one night."""
    values = {"ds": "2026-01-31"} | {f"params.{name}": one.default for name, one in dag.given.get("params", {}).items()}
    return re.sub(r"\{\{ (\S+) \}\}", lambda found: str(values[found[1]]), task.bash_command)


def ours(command: str) -> str:
    """The program and its arguments, as the documents have them."""
    head, _, line = command.partition(" && exec ")
    assert head == "source .venv/java.sh"
    return line.removeprefix(".venv/bin/")


@pytest.mark.parametrize("release", [2, 3])
def test_every_command_is_one_that_the_jobs_take(monkeypatch: pytest.MonkeyPatch, release: int) -> None:
    dags = built(monkeypatch, release)
    lines = {task.task_id: ours(rendered(dag, task)) for dag in dags.values() for task in dag.tasks.values()}
    assert set(lines) == {"doctor", "nightly", "maintain", "backfill"}
    assert {name: said for name, line in lines.items() if (said := problem(Line(FILE.name, line)))} == {}
    assert lines["nightly"].endswith("jobs/nightly.py --profile conf/yarn.yaml --date 2026-01-31")
    assert lines["doctor"] == "lensfeed doctor --profile conf/yarn.yaml"


def test_a_command_that_the_jobs_do_not_take_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    dag = built(monkeypatch, 3)["lensfeed_nightly"]
    wrong = ours(rendered(dag, dag.tasks["nightly"])).replace("--date", "--day")
    assert "unknown option --day" in (problem(Line(FILE.name, wrong)) or "")


def test_one_night_at_a_time_after_the_doctor_and_none_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    dags = built(monkeypatch, 3)
    night = dags["lensfeed_nightly"]
    assert night.tasks["nightly"].after == ["doctor"]
    assert night.given["catchup"] is True
    assert {dag.given["max_active_runs"] for dag in dags.values()} == {1}
    assert (night.given["schedule"].cron.split()[2:], night.given["schedule"].timezone) == (["*", "*", "*"], "UTC")
    assert dags["lensfeed_maintain"].given["schedule"].cron.endswith("* * 0")
    assert dags["lensfeed_backfill"].given["schedule"] is None


def test_a_retry_comes_when_a_lost_drivers_lease_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    dag = built(monkeypatch, 3)["lensfeed_nightly"]
    profile = re.search(r"--profile (\S+)", dag.tasks["nightly"].bash_command)
    assert profile is not None
    lease = load(str(ROOT / profile[1])).run.lease_ttl_s
    assert dag.given["default_args"]["retry_delay"] > 2 * timedelta(seconds=lease)
    assert dag.given["default_args"]["retries"] >= 1


def test_nothing_but_dates_reaches_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for one in built(monkeypatch, 3)["lensfeed_backfill"].given["params"].values():
        assert re.search(one.schema["pattern"], one.default)
        assert not re.search(one.schema["pattern"], "2026-01-01; echo")


def test_the_scheduler_needs_nothing_of_ours() -> None:
    tree = ast.parse(FILE.read_text(encoding="utf-8"))
    roots = {(node.module or "").partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots |= {
        name.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
    }
    assert roots == {"airflow", "datetime"}
    assert not (FILE.parent / "__pycache__").exists()
    assert Path(FILE).name in {path.name for path in (ROOT / "conf").iterdir()}  # and so in the wheel


def test_every_line_for_cron_is_a_command_of_ours() -> None:
    lines = _CRON.findall((ROOT / "docs/operations.md").read_text(encoding="utf-8"))
    assert len(lines) == 2
    for line in lines:
        # To cron a bare percent sign is the end of the line.
        assert not re.search(r"(?<!\\)%", line)
        command = _DATE.sub("2026-01-31", line.rpartition(" && ")[2]).partition(" >>")[0]
        assert problem(Line("docs/operations.md", command.removeprefix(".venv/bin/"))) is None
