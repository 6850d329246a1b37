"""What is written about the settings is what the settings are."""

from __future__ import annotations

import pytest

from chatsite.env import BASE_DIR, VARIABLES, example_file, load, settings_page

CURE = "run: python -m chatsite.env"


def test_the_page_of_settings_is_as_generated():
    assert (BASE_DIR / "docs" / "settings.md").read_text() == settings_page(), CURE


def test_the_example_file_is_as_generated():
    assert (BASE_DIR / ".env.example").read_text() == example_file(), CURE


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda variable: variable.name)
def test_every_setting_has_a_heading_a_sentence_and_its_default(variable):
    section = settings_page().partition(f"\n### `{variable.name}`\n")[2].partition("\n#")[0]
    assert variable.help in section
    assert f"Default: {f'`{variable.default}`' if variable.default else 'empty'}" in section
    assert variable.help.endswith(".")


def test_no_setting_is_listed_twice():
    names = [variable.name for variable in VARIABLES]
    assert len(names) == len(set(names))


def test_settings_of_a_group_stand_together():
    groups = [variable.group for variable in VARIABLES]
    assert groups == sorted(groups, key=groups.index)


def test_the_example_file_with_every_line_in_use_says_the_defaults():
    lines = [line.removeprefix("#") for line in example_file().splitlines()]
    pairs = [line.split("=", 1) for line in lines if line.split("=")[0].isupper()]
    written = dict(pairs)
    assert load(written | {"SECRET_KEY": "k" * 50}) == load({"SECRET_KEY": "k" * 50})
    assert written.keys() == {variable.name for variable in VARIABLES}


def test_no_example_holds_a_secret():
    for variable in VARIABLES:
        if variable.name.endswith("_KEY"):
            assert variable.default == ""
