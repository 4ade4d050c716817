"""lensfeed under Airflow (2.9 or later, 3): a night every day, upkeep every week, a backfill by hand.

Copy this file into Airflow's folder of DAGs and say in the constants below what is yours. Not tried under Airflow
itself, which was not there: a test builds these DAGs with a stand-in and holds every command against the jobs' parsers.

It imports nothing of lensfeed's, which the scheduler need not have. What runs the tasks has a checkout in HOME, with
the `.venv` that `make setup` makes and the `dist` of `make dist`, and HADOOP_CONF_DIR in its environment.

Commands are plain shell (BashOperator), not SparkSubmitOperator's arguments: they are what a person types to do a night
again, they need no provider and no connection, and the log holds what the job says, to its last line. The driver runs
beside the task (client mode), so that the task ends with the job's own exit code, and a task that is killed takes the
driver along. A driver that is to run inside the cluster: on YARN, conf/yarn.yaml has the command; on Kubernetes the
exit code of spark-submit says nothing of the driver's: take SparkSubmitOperator there, which reads it from the log.
"""

from datetime import UTC, datetime, timedelta

from airflow.timetables.interval import CronDataIntervalTimetable

try:  # Airflow 3
    from airflow.providers.standard.operators.bash import BashOperator
    from airflow.sdk import DAG, Param
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.models.param import Param
    from airflow.operators.bash import BashOperator

HOME = "/opt/lensfeed"
"""A checkout."""
PROFILE = "conf/yarn.yaml"
"""Relative to it."""
FIRST_NIGHT = datetime(2026, 1, 31, tzinfo=UTC)
"""The first manifest's date."""

SUBMIT = (
    "source .venv/java.sh && exec .venv/bin/spark-submit --master yarn --deploy-mode client"
    " --properties-file dist/spark-defaults.conf --py-files dist/lensfeed.zip"
    " --conf spark.driver.memory=8g"
    " --conf spark.pyspark.python=./environment/bin/python --conf spark.pyspark.driver.python=.venv/bin/python"
)

TASKS = {
    "cwd": HOME,
    # A worker of Airflow's that is lost may leave a driver behind, or a lease that nobody renews. The lease is over
    # after run.lease_ttl_s, two minutes: a retry that came sooner could find the warehouse held. A driver that lives
    # on is waited for (run.lease_wait_s); its date is published by then, and skipped.
    "retries": 2,
    "retry_delay": timedelta(minutes=10),
    # Exit code 2 is a mistake in what was asked for, and costs two useless retries of seconds: the task still fails.
    # No execution_timeout: crawl.deadline_s and drain_deadline_s end a crawl in order; what is left is deferred.
}

with DAG(
    dag_id="lensfeed_nightly",
    description="One manifest, from its rows to a published run",
    # An interval, not a moment: `ds` is then the day that has ended, in Airflow 2 and 3 (whose plain cron strings give
    # the day on which the run starts).
    schedule=CronDataIntervalTimetable("0 3 * * *", timezone="UTC"),
    start_date=FIRST_NIGHT,
    # Nights that were missed are plain dates, one run each; a published date is skipped. For more than a few weeks
    # start lensfeed_backfill first, which does them in one session: what is then left here are skipped dates.
    catchup=True,
    max_active_runs=1,  # one job at a time holds the warehouse: a second one would only wait for its lease
    default_args=TASKS,
    tags=["lensfeed"],
) as nightly:
    # Without Spark: says in one line each what is missing, before a cluster is asked for anything.
    doctor = BashOperator(
        task_id="doctor",
        bash_command=f"source .venv/java.sh && exec .venv/bin/lensfeed doctor --profile {PROFILE}",
    )
    night = BashOperator(
        task_id="nightly",
        bash_command=f"{SUBMIT} jobs/nightly.py --profile {PROFILE} --date {{{{ ds }}}}",
    )
    doctor >> night

with DAG(
    dag_id="lensfeed_maintain",
    description="Small files put together, old ones deleted",
    schedule=CronDataIntervalTimetable("0 12 * * 0", timezone="UTC"),  # by day: beside a night it costs time
    start_date=FIRST_NIGHT,
    catchup=False,  # what last week's would have done, this week's does
    max_active_runs=1,
    default_args=TASKS,
    tags=["lensfeed"],
) as weekly:
    BashOperator(task_id="maintain", bash_command=f"{SUBMIT} jobs/maintain.py --profile {PROFILE}")

_DATE = {"type": "string", "format": "date", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"}
"""Of what people type nothing but a date reaches the shell."""

with DAG(
    dag_id="lensfeed_backfill",
    description="A range of dates, oldest first, in one session",
    schedule=None,
    start_date=FIRST_NIGHT,
    catchup=False,
    max_active_runs=1,
    default_args=TASKS,  # a retry goes on where it was: each date is published by itself
    params={"start": Param("2026-01-01", **_DATE), "end": Param("2026-01-31", **_DATE)},
    tags=["lensfeed"],
) as by_hand:
    BashOperator(
        task_id="backfill",
        bash_command=(
            f"{SUBMIT} jobs/backfill.py --profile {PROFILE} --start {{{{ params.start }}}} --end {{{{ params.end }}}}"
        ),
    )
