"""An S3 of the tests' own: moto's server, in this process."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Lock, Thread
from typing import Any

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

BUCKET = "bucket"


@contextmanager
def s3_server() -> Iterator[dict[str, Any]]:
    """A running server with one empty bucket: `jobs.warehouse.fencing.S3Files`'s options for it."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    moto, alone = DomainDispatcherApplication(create_backend_app), Lock()

    def one_at_a_time(environ: Any, start_response: Any) -> Iterable[bytes]:
        # Moto looks whether there is an object, and then puts one: of two at once both may succeed, as on no real S3.
        with alone:
            return moto(environ, start_response)

    server = make_server("127.0.0.1", 0, one_at_a_time, threaded=True)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        known = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=endpoint, **known).create_bucket(Bucket=BUCKET)
        yield {
            "access_key_id": "key",
            "secret_access_key": "secret",
            "region": "us-east-1",
            "endpoint": endpoint,
            "client_options": {"allow_http": True},
        }
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
