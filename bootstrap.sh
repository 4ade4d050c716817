#!/usr/bin/env bash
# Makes everything a fresh machine lacks: a Python 3.11 environment from the lock file, Java 17, weights, Delta's jars.
# Idempotent; called by `make setup`.
set -euo pipefail
cd "$(dirname "$0")"

say() { printf 'setup: %s\n' "$*" >&2; }

find_python() {
  for candidate in "${LENSFEED_PYTHON:-}" python3.11 python3 python; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys, venv; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
}

make_environment() {
  local python
  python=$(find_python)
  if [ -n "$python" ]; then
    "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check uv
    UV=.venv/bin/uv
  elif command -v uv >/dev/null; then
    say "no Python 3.11 found: letting uv fetch one"
    uv venv --quiet --python 3.11 .venv
    UV=uv
  else
    say "Python 3.11 is needed and was not found; install it, or install uv, which can fetch it"
    exit 2
  fi
}

java_works() { # 17 or 21, what Spark 4.0 runs on
  [ -x "$1" ] && "$1" -version 2>&1 | grep -qE 'version "(17|21)'
}

find_java() {
  local candidate
  for candidate in "${JAVA_HOME:-/nonexistent}/bin/java" "$(command -v java || true)" /usr/lib/jvm/*/bin/java .venv/jdk/*/bin/java; do
    if java_works "$candidate"; then
      dirname "$(dirname "$(readlink -f "$candidate")")"
      return
    fi
  done
}

install_java() {
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "no Java 17 or 21 found: installing openjdk-17-jre-headless"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq openjdk-17-jre-headless >/dev/null
  else
    say "no Java 17 or 21 found: fetching a JDK into .venv/jdk"
    "$UV" pip install --quiet --python .venv/bin/python install-jdk
    .venv/bin/python -c 'import jdk; jdk.install("17", path=".venv/jdk")'
  fi
}

begun=$(date +%s)
make_environment
say "installing the locked packages (about 6 GB on disk)"
"$UV" pip sync --quiet --python .venv/bin/python --require-hashes requirements.lock
"$UV" pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e .

java_home=$(find_java)
if [ -z "$java_home" ]; then
  install_java || true
  java_home=$(find_java)
fi
if [ -z "$java_home" ]; then
  say "Java 17 or 21 is needed and could not be installed; install one and set JAVA_HOME"
  exit 2
fi
# The interpreter of the executors must be this environment's, whatever PATH says.
printf 'export JAVA_HOME=%q\nexport PYSPARK_PYTHON=%q\n' "$java_home" "$PWD/.venv/bin/python" > .venv/java.sh

say "weights and jars"
JAVA_HOME="$java_home" .venv/bin/python -m jobs.install.prepare_assets --into .assets >&2
if [ ! -f .assets/spark.jsa ] || [ .venv/java.sh -nt .assets/spark.jsa ]; then
  say "class archive of Spark and Delta, for sessions that start quickly"
  JAVA_HOME="$java_home" .venv/bin/python -m jobs.install.class_archive --into .assets/spark.jsa >/dev/null 2>&1 ||
    say "no class archive could be made: sessions will start, but slower"
fi
say "ready in $(($(date +%s) - begun)) s"
