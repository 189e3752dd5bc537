"""Text from outside cannot control the terminal of whoever reads it."""

import json
from collections.abc import Callable

import pytest
from rich.panel import Panel
from rich.text import Text

from bridge.cli import main as cli
from bridge.cli.output import fail
from bridge.terminal import output
from bridge.terminal.visible import visible

#: One character of each kind: C0, DEL, C1, bidi marks, embeddings and isolates, zero width, line
#: and paragraph separators, a byte order mark, a tag, and a surrogate without its partner.
KINDS = (
    "\x1b\x07\x08\r\x7f\x9b\x9d\u061c\u200e\u200f\u202a\u202e\u2066\u2069\u200b\u200d\u2060"
    "\u2028\u2029\ufeff\U000e0041\ud800"
)
MARKUP = "[31m[red]x[/red][link=http://e]y[/link]:smile:"
HOSTILE = "".join(f"{character}{MARKUP}" for character in KINDS)


@pytest.mark.parametrize(
    "show",
    [
        output.say,
        output.say_text,
        output.show,
        output.show_text,
        lambda text: output.show_table(["name"], [[text]]),
        lambda text: output.Terminal().print(text),
        lambda text: output.Terminal(stderr=True).print(text),
        lambda text: output.Terminal().print(Panel(text)),
    ],
)
def test_printed_text_is_visible(
    show: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    show(HOSTILE)
    printed = "".join(capsys.readouterr())
    shown = printed.replace("\n", "").replace("│", "").replace(" ", "")
    assert MARKUP in shown, "markup must stay text"
    assert all(character.isprintable() for character in printed.replace("\n", ""))
    for kind in set(KINDS) - set("\x07\x08\r"):
        assert json.dumps(kind)[1:-1] in shown


def test_text_with_styles_is_visible_too(capsys: pytest.CaptureFixture[str]) -> None:
    output.Terminal().print(Text.assemble(("mark", "red"), "\x1b]0;title\x9b", ("\u202e", "bold")))
    assert capsys.readouterr().out == "mark\\u001b]0;title\\u009b\\u202e\n"


def test_line_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for show in (output.say, output.show):
        show("one\nforged\r\n\x0b\x85\u2028line")
    for printed in capsys.readouterr():
        assert printed == "one\\nforged\\r\\n\\u000b\\u0085\\u2028line\n"


def test_table_row_stays_one_row(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_table(["id", "name"], [[1, "a\n2  forged"], [3, "b"]])
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows if row.strip()[:1].isdigit()] == ["1", "3"]


def test_error_is_one_visible_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fail(HOSTILE)
    printed = capsys.readouterr().err
    assert printed == f"pgbridge: {visible(HOSTILE)}\n"
    assert printed[:-1].isprintable()


def test_json_is_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_json({HOSTILE: HOSTILE})
    printed = capsys.readouterr().out
    assert printed[:-1].isascii()
    assert printed[:-1].isprintable()
    assert json.loads(printed) == {HOSTILE: HOSTILE}


def test_crash_is_printed_visibly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def crash(**_: object) -> None:
        raise RuntimeError(HOSTILE)

    monkeypatch.setattr(cli, "app", crash)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback")
    assert printed.replace("\n", "").isprintable()


def test_styles_survive_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    terminal = output.Terminal()
    with terminal.capture() as captured:
        terminal.print(Text("\x1b[2Jname", "bold red"))
    assert captured.get() == "\x1b[1;31m\\u001b[2Jname\x1b[0m\n"
