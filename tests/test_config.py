"""Configurations: flags, values, presets, and the sentences for what is wrong."""

import argparse
from dataclasses import dataclass
from typing import Literal

import pytest

from tinygen import config
from tinygen.config import field
from tinygen.errors import ConfigError


@dataclass(frozen=True)
class Config:
    width: int = field(64, "channels of the first block")
    lr: float = field(1e-3, "learning rate")
    ema: bool = field(True, "average the weights")
    target: str = field("eps", "what is predicted", choices=("eps", "x0", "v"))
    mults: tuple[int, ...] = field((1, 2, 2), "channel multiples")
    betas: tuple[float, float] = field((0.9, 0.999), "of Adam")
    dropout: float | None = field(None, "share that is dropped")

    def __post_init__(self):
        if self.width % 8:
            raise ValueError("width must be a multiple of 8.")


PRESETS = {"small": {}, "paper": {"width": 128, "mults": (1, 2, 4)}}


def parsed(*argv):
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    config.add_flags(parser, Config, PRESETS)
    return config.given(parser.parse_args(argv))


def test_flags_have_the_types_of_the_fields():
    assert parsed() == {}
    got = parsed(
        "--width",
        "32",
        "--lr",
        "1",
        "--no-ema",
        "--target",
        "v",
        "--mults",
        "1,2",
        "--betas=0.5,0.9",
        "--dropout",
        "0.1",
    )
    assert got == {
        "width": 32,
        "lr": 1.0,
        "ema": False,
        "target": "v",
        "mults": (1, 2),
        "betas": (0.5, 0.9),
        "dropout": 0.1,
    }
    assert type(got["lr"]) is float
    assert parsed("--dropout", "none") == {"dropout": None}
    assert parsed("--ema") == {"ema": True}


@pytest.mark.parametrize("flag, value, text", [
    ("width", "6.5", "must be a whole number, not '6.5'."),
    ("lr", "fast", "must be a number, not 'fast'."),
    ("lr", "inf", "must be a number, not inf."),
    ("target", "epz", "must be one of eps, x0, v, not 'epz'; did you mean 'eps'?"),
    ("mults", "1,x", "must be whole numbers with commas between them, such as 1,2,2, not '1,x'."),
    ("dropout", "much", "must be a number, or none, not 'much'."),
])  # fmt: skip
def test_a_wrong_value_is_refused_in_words(flag, value, text):
    with pytest.raises(argparse.ArgumentError) as caught:
        parsed("--" + flag, value)
    assert caught.value.message == text


def test_help_shows_defaults_and_presets():
    parser = argparse.ArgumentParser()
    config.add_flags(parser, Config, PRESETS)
    text = " ".join(parser.format_help().split())
    assert "--width N channels of the first block (default 64; paper: 128)" in text
    assert "--mults N,N,… channel multiples (default 1,2,2; paper: 1,2,4)" in text
    assert "--target {eps,x0,v} what is predicted (default eps)" in text
    assert "(default none)" in text and "--ema, --no-ema" in text


def test_a_setting_may_not_hide_a_flag_of_the_command():
    parser = argparse.ArgumentParser()
    parser.add_argument("--width")
    with pytest.raises(TypeError, match="'width' has the name of a flag of the command itself"):
        config.add_flags(parser, Config)


def test_build_applies_preset_then_overrides_and_checks():
    made = config.build(Config, PRESETS["paper"], {"lr": 1, "mults": [1, 1]})
    assert (made.width, made.lr, made.mults) == (128, 1.0, (1, 1))
    with pytest.raises(
        ConfigError, match=r"^there is no setting 'widht'; did you mean 'width'\? There are: width, lr, "
    ):
        config.build(Config, None, {"widht": 8})
    with pytest.raises(ConfigError, match=r"^there is no setting 'zzz'; there are: width"):
        config.build(Config, None, {"zzz": 8})
    with pytest.raises(ConfigError, match=r"^width must be a whole number, not True\.$"):
        config.build(Config, None, {"width": True})
    with pytest.raises(ConfigError, match=r"^width must be a multiple of 8\.$"):
        config.build(Config, None, {"width": 3})
    with pytest.raises(
        ConfigError, match=r"^there is no preset 'papre'; did you mean 'paper'\? There are: small, paper\.$"
    ):
        config.choose_preset(PRESETS, "papre")


def test_dictionaries_round_trip_and_are_strict():
    made = config.build(Config, None, {"mults": (4,)})
    table = config.to_dict(made)
    assert table["mults"] == [4]
    assert config.from_dict(Config, table) == made
    with pytest.raises(ConfigError, match="lacks lr; it was written by another version"):
        config.from_dict(Config, {k: v for k, v in table.items() if k != "lr"})
    with pytest.raises(ConfigError, match="no setting 'more'"):
        config.from_dict(Config, {**table, "more": 1})
    with pytest.raises(ConfigError, match="a table of settings, not 3"):
        config.from_dict(Config, 3)


def test_differences_name_what_differs():
    assert config.differences({"a": 1, "b": (1, 2), "c": True}, {"a": 2, "b": [1, 2], "d": None}) == [
        "a is 1, not 2", "c is yes, not absent", "d is absent, not none",
    ]  # fmt: skip


def test_options_of_a_function_become_flags():
    def sample(
        n, rng, *, sampler: Literal["ddpm", "ddim"] = "ddim", steps: int = 50, label: int | None = None, eta=0.0
    ):
        """Draw.

        sampler: which rule to follow
        steps: how many steps to
            take
        """

    found = config.specs(sample)
    assert found["sampler"].choices == ("ddpm", "ddim") and found["sampler"].help == "which rule to follow"
    assert found["steps"].help == "how many steps to take" and found["label"].optional and found["eta"].kind is float

    def wrong(*, a: dict = None):
        pass

    with pytest.raises(TypeError, match="the setting 'a' is declared"):
        config.specs(wrong)
