"""What every command has: help, exit codes, messages in one line."""
import re

import pytest

from cli_support import refuse, succeed

COMMANDS = ["info", "run", "explain", "show", "bench", "profile", "plan"]
CONFIGURATION = ["--segments", "--rates", "--preset", "--mixing", "--offset-rule", "--tail-rule", "--overlap",
                 "--causal", "--window", "--scale", "--dtype", "--partition", "--stripe", "--split", "--sparse-pattern",
                 "--sparsity-ratio", "--block-size", "--quality-target", "--global-blocks", "--sparse-seed"]


@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_help_lists_the_commands(word):
    text = succeed(word)
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", text, re.MULTILINE)
    assert "exit codes" in text and "--version" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command):
    text = succeed(command, "--help")
    assert text.startswith(f"usage: dilated-attention {command} ")
    assert "--json" in text and "--help" in text and "exit codes: 0 done, 1 failed, 2" in text
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("command", ["run", "explain", "show", "bench", "profile", "plan"])
def test_configuration_is_the_same_everywhere(command):
    text = succeed(command, "--help")
    assert [option for option in CONFIGURATION if f"  {option}" not in text] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_help_wins_over_what_follows(command):
    assert succeed(command, "--help", "--no-such-option").startswith("usage: ")


def test_version():
    assert re.fullmatch(r"dilated-attention \d+\.\d+\.\d+\n", succeed("--version"))


def test_no_command():
    assert "command is missing" in refuse(2)


def test_unknown_command():
    line = refuse(2, "teach")
    assert '"teach"' in line and "run, explain, show, bench, " in line


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("words, part", [(["--no-such-option"], "--no-such-option"), (["stray"], '"stray"'),
                                         (["--json=1"], "--json")])
def test_unknown_words(command, words, part):
    line = refuse(2, command, *words)
    assert line.startswith(f"dilated-attention {command}: ") and part in line


@pytest.mark.parametrize("command", ["explain", "bench", "show"])
@pytest.mark.parametrize("words, part", [(["--segments", "8,x"], "--segments"), (["--scale", "nan"], "--scale"),
                                         (["--window", "-5"], "--window"), (["--mixing", "all"], "--mixing"),
                                         (["--segments", "8,16", "--rates", "1"], "--segments, --rates")])
def test_configuration_is_refused_everywhere(command, words, part):
    needed = {"show": ["--n", 64], "explain": [], "bench": []}[command]
    assert f"dilated-attention {command}: {part}: " in refuse(2, command, *needed, *words)
