"""An S3 of the tests' own: moto's server, in this process."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import boto3
from werkzeug.serving import make_server

from demo.s3_server import OneAtATime

BUCKET = "bucket"


@contextmanager
def s3_server() -> Iterator[dict[str, Any]]:
    """A running server with one empty bucket: `jobs.warehouse.fencing.S3Files`'s options for it."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = make_server("127.0.0.1", 0, OneAtATime(), threaded=True)
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
