"""Publishes a labelled folder of pictures as a feed, from a web server on loopback to the ledger: captions as titles.

    python -m benchmarks.publish_labelled --labelled DIR --warehouse DIR [--date 2026-01-31]

What `jobs.fit_alignment` and `benchmarks.rerank` are then measured on. Needs `make setup`.
"""

import argparse
import json
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

from jobs import nightly
from jobs.evaluation.labelled import Labelled, read_labelled


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the night's exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.publish_labelled", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--labelled", type=Path, required=True)
    parser.add_argument("--warehouse", type=Path, required=True)
    parser.add_argument("--profile", default="conf/local.yaml")
    parser.add_argument("--date", default="2026-01-31")
    options = parser.parse_args(arguments)
    pictures = [picture for picture in read_labelled(options.labelled) if picture.caption]
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler({quote(f"/{one.name}"): one for one in pictures})) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        with tempfile.TemporaryDirectory() as folder:
            rows = [{"url": f"{base}{quote(f'/{one.name}')}", "title": one.caption} for one in pictures]
            Path(folder, "pictures.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
            settings = {"manifest.path": folder, "warehouse": str(options.warehouse.absolute())}
            overrides = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
            code = nightly.main(["--profile", options.profile, "--date", options.date, *overrides])
        server.shutdown()
    return code


def _handler(pages: Mapping[str, Labelled]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            page = pages.get(self.path)
            body = page.pixels if page else b""
            self.send_response(200 if page else 404)
            if page:
                self.send_header("Content-Type", f"image/{Path(page.name).suffix[1:].lower().replace('jpg', 'jpeg')}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's
            pass

    return Handler


if __name__ == "__main__":
    sys.exit(main())
