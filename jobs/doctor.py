"""Whether everything that a job needs is there: a line each, `ok`, `warn` or `FAIL`, with what to do about it.

    python -m jobs.doctor --profile conf/production.yaml [--spark]

Looks at Java, Delta's jars, the Python packages against the lock file, free disk, the policy, every weight's digest,
the user agent, the manifests' folder; and at the warehouse: whether it can be listed and written to, whether its
storage refuses to make a file twice (by a small one, which is taken away again), its clock, who holds it, what was left
in staging. `--spark` starts a session too, and has every executor import what the stages need; file systems that only
Hadoop knows are looked at then. Exit codes: 0 nothing is wrong, 1 something is, 2 bad usage or a profile that cannot be
read.
"""

import argparse
import sys
from collections.abc import Sequence

from jobs.config.command import JobParser, add_config_arguments, job_parser, run_command
from jobs.config.errors import RunError
from jobs.config.profile import load
from jobs.run.health import Finding, findings, findings_with_spark
from jobs.startup.assets import local_assets
from jobs.startup.session import open_session
from udfs.credentials import redact_text


def command_line() -> JobParser:
    """The parser of the job's arguments."""
    parser = job_parser("doctor", __doc__)
    add_config_arguments(parser)
    parser.add_argument("--spark", action="store_true", help="start a session, and look at its executors too")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = command_line().parse_args(arguments)
    return run_command(lambda: _run(options), options)


def _run(options: argparse.Namespace) -> None:
    config = load(options.profile, options.set)
    found: list[Finding] = []
    for one in findings(config):
        _tell(one)
        found.append(one)
    if options.spark:
        for one in findings_with_spark(config, open_session(local_assets(config))):
            _tell(one)
            found.append(one)
    failed = [one.name for one in found if one.state == "FAIL"]
    if failed:
        raise RunError(f"{len(failed)} of {len(found)} are wrong: {', '.join(failed)}")


def _tell(finding: Finding) -> None:
    sys.stdout.write(f"{redact_text(str(finding))}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
