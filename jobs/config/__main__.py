"""What a profile comes to: every setting that holds, with the file and line, or the `--set`, that says so.

    python -m jobs.config show --profile conf/production.yaml [--set key.path=value ...]
    python -m jobs.config document     docs/settings.md: every setting there is, with its meaning
    python -m jobs.config schema       docs/settings.schema.json: the same for editors

`show` reads the profile and what it extends, and nothing else: whether files are there is what jobs.doctor looks at.
Values of Spark's properties that are named like secrets, and credentials in addresses, are left out. Exit codes as for
every job.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from jobs.config import reference
from jobs.config.command import JobParser, add_config_arguments, add_output_arguments, job_parser, run_command
from jobs.config.profile import load_with_places
from schemas.settings import Settings
from udfs.credentials import redact_text

_SECRET = re.compile(r"(?i)secret|password|token|access[.]?key|credential|sas[.]|account[.]?key")
"""Names of properties whose values are nobody's to see: Spark's own pattern (spark.redaction.regex), and Azure's."""
_HIDDEN = "(not shown)"


def command_line() -> JobParser:
    """The parser of the job's arguments."""
    parser = job_parser("config", __doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="{show,document,schema}")
    add_config_arguments(actions.add_parser("show", help="print every setting that holds, and where it comes from"))
    add_output_arguments(actions.add_parser("document", help="print docs/settings.md"))
    add_output_arguments(actions.add_parser("schema", help="print docs/settings.schema.json"))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = command_line().parse_args(arguments)
    return run_command(lambda: _run(options), options)


def _run(options: argparse.Namespace) -> None:
    if options.action == "show":
        sys.stdout.write(shown(options.profile, options.set))
    elif options.action == "document":
        sys.stdout.write(reference.document())
    else:
        sys.stdout.write(json.dumps(reference.schema(), indent=2) + "\n")


def shown(profile: str, overrides: Sequence[str]) -> str:
    """A line a setting: `crawl.retries: 3   # profile conf/local.yaml, line 15`. Raises UsageError as `load`."""
    config, place = load_with_places(profile, overrides)
    lines = []
    for path, value in leaves(config):
        name = ".".join(map(str, path))
        text = _HIDDEN if _is_secret(path) else json.dumps(value, ensure_ascii=False)
        where = place(path) or "default"
        if where.startswith("--set "):  # of which the value may hold what is not shown
            where = where.partition("=")[0]
        lines.append((redact_text(f"{name}: {text}"), where))
    width = min(60, max(len(line) for line, _ in lines))
    return "".join(f"{line:<{width}}  # {where}\n" for line, where in lines)


def leaves(settings: Settings, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every value with its path: groups, members of lists of groups, and free mappings key by key."""
    plain = settings.model_dump(mode="json")
    for name in type(settings).model_fields:
        value, here = getattr(settings, name), (*path, name)
        if isinstance(value, Settings):
            yield from leaves(value, here)
        elif isinstance(value, tuple) and value and isinstance(value[0], Settings):
            for number, member in enumerate(value):
                yield from leaves(member, (*here, number))
        elif isinstance(value, dict) and value:
            yield from (((*here, key), one) for key, one in plain[name].items())
        else:
            yield here, plain[name]


def _is_secret(path: Sequence[str | int]) -> bool:
    return path[:2] == ("spark", "properties") and len(path) > 2 and bool(_SECRET.search(str(path[2])))


if __name__ == "__main__":
    sys.exit(main())
