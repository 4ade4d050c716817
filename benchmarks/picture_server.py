"""A fixed mix of JPEGs behind a real nginx on many loopback hosts: the web that the crawl benchmarks fetch from.

nginx runs as a daemon, outside of every process tree that is measured. It is Debian's: `apt-get install nginx-light`.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from tests.pictures import encoded, names, photograph

FILES = 200
LARGE_EVERY = 8
"""Every eighth picture is large: 1,600 to 2,800 pixels wide, 0.2 to 1 MB."""

USUAL_BYTES = 55_000
"""What the others come to in the middle; with the large ones, the median is 60 kB."""

HOSTS = 200

_CONFIGURATION = """
daemon on;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  tcp_nodelay on;
  keepalive_requests 100000;
  open_file_cache max=1000;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  types {{ image/jpeg jpg; text/plain txt; }}
  server {{ listen 0.0.0.0:{port} backlog=4096; root {folder}/pictures; }}
}}
"""
ROBOTS = "User-agent: *\nDisallow: /private/\n"


def make_pictures(folder: Path) -> list[int]:
    """Write the mix as 000.jpg, 001.jpg, ... and a robots.txt into `folder`; their sizes in bytes.

    Sizes are spread evenly (in the logarithm) over a factor of two either side of `USUAL_BYTES`, the large ones apart.
    The same files on every run.
    """
    folder.mkdir(parents=True)
    (folder / "robots.txt").write_text(ROBOTS)
    sources = names()
    sizes = []
    for number in range(FILES):
        photo = _window(photograph(sources[number % len(sources)]), number)
        if number % LARGE_EVERY == LARGE_EVERY - 1:
            data = encoded(_wide(photo, 1600 + 1200 * number // FILES), quality=85)
        else:
            usual = _wide(photo, (640, 800, 1024)[number // len(sources) % 3])
            data = _of_size(usual, round(USUAL_BYTES * 4 ** (number / FILES - 0.5)))
        (folder / f"{number:03}.jpg").write_bytes(data)
        sizes.append(len(data))
    return sizes


def _window(photo: Image.Image, number: int) -> Image.Image:
    """A 4:3 part of the photograph, another one for each number."""
    width = min(photo.width, photo.height * 4 // 3) * 9 // 10
    height = width * 3 // 4
    left = (photo.width - width) * (number % 7) // 6
    top = (photo.height - height) * (number % 5) // 4
    return photo.crop((left, top, left + width, top + height))


def _wide(photo: Image.Image, width: int) -> Image.Image:
    return photo.resize((width, width * 3 // 4), Image.Resampling.LANCZOS)


def _of_size(photo: Image.Image, size: int) -> bytes:
    """The JPEG of at most `size` bytes with the highest quality from 20 to 95, else that of quality 20."""
    low, high = 20, 95
    best = encoded(photo, quality=low)
    while low < high:
        middle = (low + high + 1) // 2
        data = encoded(photo, quality=middle)
        if len(data) <= size:
            low, best = middle, data
        else:
            high = middle - 1
    return best


def urls(port: int, count: int) -> list[str]:
    """`count` different URLs, spread over `HOSTS` hosts and all pictures."""
    return [
        f"http://127.0.1.{number % HOSTS + 1}:{port}/{number * 7 % FILES:03}.jpg?{number}" for number in range(count)
    ]


@contextmanager
def serving(folder: Path) -> Iterator[int]:
    """nginx over `folder`/pictures on a free port of every loopback address; gives the port."""
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:
        raise SystemExit("nginx is not installed: apt-get install nginx-light")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    configuration = folder / "nginx.conf"
    configuration.write_text(_CONFIGURATION.format(folder=folder, port=port))
    folder.chmod(0o755)  # its worker runs as another user where the master is root
    subprocess.run([nginx, "-c", str(configuration)], check=True)
    pid = _started(folder / "nginx.pid")
    try:
        yield port
    finally:
        os.kill(pid, signal.SIGTERM)


def _started(pid_file: Path) -> int:
    for _ in range(100):
        if pid_file.exists() and (text := pid_file.read_text().strip()):
            return int(text)
        time.sleep(0.05)
    raise RuntimeError("nginx did not write its process id")
