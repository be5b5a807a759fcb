"""The check for resources on other hosts finds them, and nothing else."""

from pathlib import Path

import pytest
from tools import external_resources


@pytest.mark.parametrize(
    ("suffix", "text", "found"),
    [
        (".html", '<script src="https://cdn.example/x.js"></script>', ["https://cdn.example/x.js"]),
        (".html", '<script src="//cdn.example/x.js"></script>', ["//cdn.example/x.js"]),
        (".html", '<link rel="stylesheet" href="http://cdn.example/x.css">', ["http://cdn.example/x.css"]),
        (".html", '<link href="https://fonts.example" rel="PRECONNECT">', ["https://fonts.example"]),
        (".html", '<img alt="" src="a.png" srcset="a.png 1x, //cdn.example/b.png 2x">', ["//cdn.example/b.png"]),
        (".html", "<style>@import 'https://cdn.example/x.css';</style>", ["https://cdn.example/x.css"]),
        (".html", '<p style="background: url(https://cdn.example/x)">', ["https://cdn.example/x"]),
        (".html", '<base href="https://cdn.example/">', ["https://cdn.example/"]),
        (".css", '@font-face { src: url("//cdn.example/x.woff2") }', ["//cdn.example/x.woff2"]),
        (".svg", '<svg><image href="https://cdn.example/x.png"/></svg>', ["https://cdn.example/x.png"]),
        (".html", '<script src="_static/x.js"></script><img src="/a.png">', []),
        (".html", '<a href="https://example.org">a link</a><link rel="canonical" href="https://example.org">', []),
        (".css", "p { background: url('data:image/svg+xml,<svg xmlns=\"http://www.w3.org/2000/svg\">') }", []),
        (".svg", '<svg xmlns="http://www.w3.org/2000/svg"><use href="#a"/></svg>', []),
    ],
)
def test_what_is_loaded_from_another_host_is_found(suffix: str, text: str, found: list[str]) -> None:
    """A resource of another host is found in each place; links, namespaces and own files are none."""
    assert external_resources.external(suffix, text) == found


def test_the_exit_code_names_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The check fails for a directory without pages and for one with an external script, which it names."""
    assert external_resources.main([str(tmp_path)]) == 1
    (tmp_path / "index.html").write_text("<p>")
    assert external_resources.main([str(tmp_path)]) == 0
    (tmp_path / "index.html").write_text('<script src="//cdn.example/x.js"></script>')
    assert external_resources.main([str(tmp_path)]) == 1
    assert "index.html: //cdn.example/x.js" in capsys.readouterr().out
