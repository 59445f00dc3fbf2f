"""The command `knnseg label-studio`, up to where it listens; what it answers is tested in integrations/."""

import pytest
from typer.testing import CliRunner

from knnseg.cli.commands import app


@pytest.mark.parametrize(
    ("options", "token", "message"),
    [
        ([], "", "set LABEL_STUDIO_API_KEY"),
        (["--shapes", "circle"], "t", "--shapes takes brush, polygon, rectangle"),
        (["--host", "0.0.0.0"], "t", "KNNSEG_BASIC_AUTH"),
        (["--label-studio", "localhost"], "t", "expected a URL such as http://localhost:8080"),
        (["--files", "/no/such"], "t", "expected a folder"),
    ],
)
def test_mistakes_are_found_before_weights_are_read(options, token, message, monkeypatch, tmp_path):
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", token)
    monkeypatch.delenv("KNNSEG_BASIC_AUTH", raising=False)
    done = CliRunner().invoke(app, ["label-studio", "-s", f"memory://{tmp_path}", "--preset", "nothing", *options])
    assert done.exit_code != 0 and message in done.output + str(done.exception)
