"""An S3 of the demo's own: moto's server on loopback, which keeps everything in memory and forgets it when it ends.

    python -m demo.s3_server --port 8462 [--counts FILE]

It is no Amazon: it checks no credentials. It counts what it is asked by kind of request, and keeps that in a file.
"""

import argparse
import json
import logging
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(prog="python -m demo.s3_server", description="Serve an S3 on loopback.")
    parser.add_argument("--port", type=int, required=True, help="of 127.0.0.1")
    parser.add_argument("--counts", type=Path, metavar="FILE", help="JSON of how often each kind was asked")
    options = parser.parse_args(arguments)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    make_server("127.0.0.1", options.port, OneAtATime(options.counts), threaded=True).serve_forever()
    return 0


class OneAtATime:
    """Moto as a WSGI application that answers one request after the other: it looks whether there is an object, and
    then puts one, so that of two conditional puts at once both might succeed, as on no real S3."""

    def __init__(self, counts: Path | None = None) -> None:
        self._moto: Any = DomainDispatcherApplication(create_backend_app)
        self._alone = Lock()
        self._counts = counts
        self._counter: Counter[str] = Counter()

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        """Answer a request."""
        with self._alone:
            self._count(environ)
            return list(self._moto(environ, start_response))

    def _count(self, environ: Any) -> None:
        if "HTTP_X_AMZ_COPY_SOURCE" in environ:  # what a rename is here
            copied = next(
                (name for name in ("_staging", "_delta_log", "_lease") if f"/{name}/" in environ["PATH_INFO"]), "data"
            )
            self._counter[f"COPY in {copied}"] += 1
        else:
            self._counter[environ["REQUEST_METHOD"]] += 1
        if self._counts is not None:
            draft = self._counts.with_suffix(".new")
            draft.write_text(json.dumps(self._counter), encoding="utf-8")
            draft.replace(self._counts)  # a reader sees the old counts or the new


if __name__ == "__main__":
    sys.exit(main())
