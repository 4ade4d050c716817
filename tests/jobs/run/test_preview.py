"""What a dry run shows of strangers' texts."""

from jobs.run.preview import Counted, _told


def test_what_files_are_called_controls_no_terminal_and_shows_no_password() -> None:
    names = ("a\x1b[2J\nb.csv", "s3a://key:s3cret@bucket/x", "\u202egpj.x", "x" * 500)
    lines = list(_told(Counted(tuple((name, 1) for name in names), 0, 0), "files"))
    assert [line.split("  ")[-1] for line in lines[:3]] == ["a�[2J b.csv", "s3a://bucket/x", "�gpj.x"]
    assert all(line.isprintable() and len(line) < 450 for line in lines)
