"""What `jobs.redecide` refuses before it does anything."""

from pathlib import Path

import pytest

from jobs import redecide
from jobs.config.progress import log


def test_where_nothing_could_be_shown_is_said_before_anything_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(log, "error", lambda template, *values: said.append(template % values))
    monkeypatch.setattr(redecide, "open_session", lambda _: pytest.fail("a session was opened"))
    (tmp_path / "file").touch()
    arguments = ["--profile", "conf/local.yaml", "--set", f"warehouse={tmp_path / 'warehouse'}"]
    assert redecide.main([*arguments, "--html", str(tmp_path / "whatif.html")]) == 2
    assert redecide.main([*arguments, "--dry-run", "--html", str(tmp_path)]) == 2
    assert redecide.main([*arguments, "--dry-run", "--html", str(tmp_path / "file/whatif.html")]) == 2
    assert said == [
        "error: --html: expected with --dry-run, which it shows the outcome of",
        f"error: --html {tmp_path}: expected a file, found a folder",
        f"error: --html {tmp_path}/file/whatif.html: cannot be written ({tmp_path}/file: File exists)",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
