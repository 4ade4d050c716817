import logging

from jobs.config.progress import WithoutCredentials


def test_a_line_shows_no_password_of_a_url_wherever_it_comes_from() -> None:
    try:
        raise ValueError("cannot open s3a://key:s3cretw0rd@bucket/x")
    except ValueError as error:
        record = logging.LogRecord("lensfeed", logging.ERROR, "", 0, "failed: %s", (error,), (type(error), error, None))
    line = WithoutCredentials().format(record)
    assert "s3a://bucket/x" in line
    assert "s3cretw0rd" not in line
