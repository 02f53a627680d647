from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import click
import pytest

from firmware_bridge.errors import BrokerError, ConfigError, MissingExtraError, ResourceError
from firmware_bridge.result import NOTICE
from toolkit.cli import commands as main_module

Give = Callable[[BaseException | int], int]


@pytest.fixture
def give(monkeypatch: pytest.MonkeyPatch) -> Give:
    """Run a subcommand whose body raises the given error (or leaves with the given code), through the real entry."""

    def run(outcome: BaseException | int) -> int:
        @click.command()
        @click.pass_context
        def command(ctx: click.Context) -> None:
            if isinstance(outcome, BaseException):
                raise outcome
            ctx.exit(outcome)

        monkeypatch.setitem(main_module.COMMANDS, "try-this", ("module_of_this_test", "help"))
        monkeypatch.setitem(sys.modules, "module_of_this_test", SimpleNamespace(command=command))
        return main_module.run(["try-this"])

    return run


@pytest.mark.parametrize("code", [0, 1, 7])
def test_a_commands_own_exit_code_stands(give: Give, code: int) -> None:
    assert give(code) == code


@pytest.mark.parametrize("error", [ConfigError, BrokerError, ResourceError])
def test_an_error_of_the_tree_gives_its_message_and_its_code(
    give: Give, error: type[ConfigError], capsys: pytest.CaptureFixture[str]
) -> None:
    assert give(error("it broke", expected="this", came="that", do="something else")) == error.exit_code
    assert "it broke\n  expected: this\n  came:     that\n  do:       something else" in capsys.readouterr().err


def test_ctrl_c_is_130(give: Give, capsys: pytest.CaptureFixture[str]) -> None:
    assert give(KeyboardInterrupt()) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_names_the_file(give: Give, number: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert give(OSError(number, "No space left on device", "runs/a/model.int8.tflite")) == ResourceError.exit_code
    assert "runs/a/model.int8.tflite" in capsys.readouterr().err


def test_no_memory_is_a_resource_error(give: Give) -> None:
    assert give(MemoryError()) == ResourceError.exit_code


def test_a_missing_extra_says_how_to_install_it(give: Give, capsys: pytest.CaptureFixture[str]) -> None:
    missing = ModuleNotFoundError("No module named 'albumentations'", name="albumentations.core")
    assert give(missing) == MissingExtraError.exit_code
    assert "in the clone that cxr-edge was installed from: pip install '.[train]'" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(give: Give) -> None:
    with pytest.raises(ZeroDivisionError):
        give(ZeroDivisionError())
    with pytest.raises(ModuleNotFoundError):
        give(ModuleNotFoundError("No module named 'toolkit.nothing'", name="toolkit.nothing"))


def test_a_wrong_option_and_a_wrong_command_are_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main_module.run(["--no-such-option"]) == 2
    assert main_module.run(["no-such-command"]) == 2
    assert "no-such-command" in capsys.readouterr().err


def test_help_lists_every_command_imports_none_and_ends_with_the_notice() -> None:
    heavy = "numpy", "cv2", "tensorflow", "paho", *(module for module, _ in main_module.COMMANDS.values())
    code = (
        "import sys; from toolkit.cli.main import run; code = run(['--help'])\n"
        f"sys.stderr.write(repr([name for name in {heavy!r} if name in sys.modules])); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == "[]"
    assert all(name in done.stdout for name in main_module.COMMANDS)
    assert done.stdout.rstrip().endswith(NOTICE)


def test_a_path_that_may_not_be_written_is_named_without_a_traceback(
    give: Give, capsys: pytest.CaptureFixture[str]
) -> None:
    assert give(PermissionError(13, "Permission denied", "/sys/x.json")) == ResourceError.exit_code
    assert "/sys/x.json" in capsys.readouterr().err


def test_a_reader_that_leaves_early_makes_no_noise() -> None:
    pipe = f"{sys.executable} -m toolkit.cli.main --help | true"
    done = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""


def _commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None
            yield from _commands(found, f"{name} {child}")


def test_every_option_is_explained_and_every_command_ends_with_the_notice() -> None:
    for name, command in _commands(main_module.cxr_edge, "cxr-edge"):
        assert command.epilog == NOTICE, name
        # The top level's own lines stand in COMMANDS.
        assert name.count(" ") < 2 or not command.get_short_help_str(65).endswith("..."), name
        for option in command.params:
            if isinstance(option, click.Option):
                assert len(option.help or "") > 8, (name, option.name)


def test_no_choice_of_the_agent_is_empty_in_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main_module.run(["agent", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--precision [int8|fp16]" in shown
    assert "[|" not in shown
